"""The platform as Dagster sees it: assets, checks, jobs; each calls what the other rooms do."""
