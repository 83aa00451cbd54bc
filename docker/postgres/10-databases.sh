#!/bin/sh
# Run once by the postgres image, when its data folder is new: one database and one role each
# for HAPI, fhir-ext and Keycloak. None can read another's. Run it again by hand in the
# container after an update that brings a new one; what is there stays as it is.
set -eu

create() {
    psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" \
        --dbname "${POSTGRES_DB:-postgres}" \
        --set role="$1" --set variable="$2" <<'SQL'
SELECT count(*) = 0 AS missing FROM pg_roles WHERE rolname = :'role' \gset
\if :missing
-- Read here and not given as an argument, which every process could see.
\getenv secret :variable
CREATE ROLE :"role" LOGIN PASSWORD :'secret';
CREATE DATABASE :"role" OWNER :"role";
REVOKE CONNECT ON DATABASE :"role" FROM PUBLIC;
\endif
SQL
}

create hapi HAPI_DATABASE_PASSWORD
create fhir_ext FHIR_EXT_DATABASE_PASSWORD
create keycloak KEYCLOAK_DATABASE_PASSWORD
