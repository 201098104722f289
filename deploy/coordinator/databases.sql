-- One role and one database for each server, none of which may enter another's. Run at every start, as the
-- superuser: what is there already stays, and a password that was changed in its file counts from now on.
-- PASSWORDS names the folder of the password files.
\set ON_ERROR_STOP on
\set prefect `cut -d: -f5 "$PASSWORDS/prefect.pgpass"`
\set mlflow `cut -d: -f5 "$PASSWORDS/mlflow.pgpass"`
\set gateway `cut -d: -f5 "$PASSWORDS/gateway.pgpass"`

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['prefect', 'mlflow', 'gateway']) AS name
WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec

ALTER ROLE prefect PASSWORD :'prefect';
ALTER ROLE mlflow PASSWORD :'mlflow';
ALTER ROLE gateway PASSWORD :'gateway';

SELECT format('CREATE DATABASE %I OWNER %I', name, name)
FROM unnest(ARRAY['prefect', 'mlflow', 'gateway']) AS name
WHERE name NOT IN (SELECT datname FROM pg_database) \gexec

REVOKE ALL ON DATABASE prefect, mlflow, gateway, postgres FROM PUBLIC;
