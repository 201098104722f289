"""Analyses of patients over several hospitals, from sums and counts: no patient's row leaves a site.

Each method has a site's half, a pure function from a request and the site's table to a record, and a pooled half, from
the records of all sites to the result. `components.analytics.analysis` puts them in order;
`components.analytics.disclosure` says what may leave.
"""
