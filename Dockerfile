# One image, two roles: the coordinator and a hospital. What a container does is its command.
#
#   docker build -t wardround .
#   docker run --rm -v wardround:/wardround wardround demo
#
# PyTorch: by default the index that pip is configured with decides. Name an index of the builds you want,
# for example PyTorch's own for CPU, or for a CUDA version that your driver supports:
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<address of the index> -t wardround:cuda .
#
# CUDA comes inside PyTorch's own packages; the host brings the driver (docker run --gpus all).

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# pip reads it from the environment, as any setting of its own.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/wardround
WORKDIR /source
# Dependencies first: this layer, the large one, is kept until pyproject.toml or the pins change. The
# package itself is added below; for its metadata, empty packages are enough.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p components flows models studies deploy/coordinator deploy/hospital \
    && touch components/__init__.py flows/__init__.py models/__init__.py \
    && /opt/wardround/bin/pip install -c constraints.txt setuptools \
    && /opt/wardround/bin/pip install -c constraints.txt --no-build-isolation . \
    && /opt/wardround/bin/pip uninstall -y wardround \
    && rm -rf components flows models studies deploy build *.egg-info
COPY components components
COPY flows flows
COPY models models
COPY studies studies
COPY deploy deploy
RUN /opt/wardround/bin/pip install --no-deps --no-build-isolation . \
    && /opt/wardround/bin/pip check \
    && /opt/wardround/bin/python -m compileall -q /opt/wardround/lib
# Migrated databases and the files of Prefect's interface, so that a container's first start is a quick one.
RUN XDG_CACHE_HOME=/opt/cache /opt/wardround/bin/python -m flows.embedded_prefect --prepare

FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="WardRound" \
    org.opencontainers.image.description="Federated learning for hospitals" \
    org.opencontainers.image.licenses="Apache-2.0"
# A fixed number, so that a hospital can give a folder of its host to exactly this user.
RUN groupadd --gid 10001 wardround \
    && useradd --uid 10001 --gid wardround --home-dir /wardround --create-home --shell /usr/sbin/nologin wardround
COPY --from=build /opt/wardround /opt/wardround
COPY --from=build --chown=wardround:wardround /opt/cache /opt/cache
ENV PATH=/opt/wardround/bin:$PATH \
    XDG_CACHE_HOME=/opt/cache \
    WARDROUND_HOME=/wardround/.wardround \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER wardround
WORKDIR /wardround
VOLUME /wardround
# Healthy: the installation is whole, and the Prefect server of this home answers wherever one is running.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD ["python", "-m", "flows.health"]
STOPSIGNAL SIGINT
ENTRYPOINT ["wardround"]
CMD ["--help"]
