-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION bqcore UPDATE TO '0.3.0'" to load this file. \quit

-- recall of an index: the caller's own queries, and who may ask

-- indexes that met their rows after CREATE INDEX
