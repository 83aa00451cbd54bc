#!/bin/sh
# Run once by the postgres image, when its data folder is new: one database and one role for
# HAPI, one for fhir-ext. Neither can read the other's.
set -eu

create() {
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
        --set role="$1" --set variable="$2" <<'SQL'
-- Read here and not given as an argument, which every process could see.
\getenv secret :variable
CREATE ROLE :"role" LOGIN PASSWORD :'secret';
CREATE DATABASE :"role" OWNER :"role";
REVOKE CONNECT ON DATABASE :"role" FROM PUBLIC;
SQL
}

create hapi HAPI_DATABASE_PASSWORD
create fhir_ext FHIR_EXT_DATABASE_PASSWORD
