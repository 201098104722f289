"""A site's data: found, checked, decoded once, divided by patient, and handed out in seeded batches.

Begin with `components.data.sources.plan_sources` and `components.data.site_data.open_site_data`.
"""
