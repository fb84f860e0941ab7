"""Batch jobs as functions over Arrow tables: sources, ingest, encode, refresh, checks, evaluation, engines."""
