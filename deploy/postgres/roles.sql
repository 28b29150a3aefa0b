-- The roles of the gateway. PostgreSQL runs this file as its superuser when it creates the volume of the stack, after the
-- database `gateway`. docs/database.md describes the roles.

\set ON_ERROR_STOP on
\set owner_password `cat /run/secrets/postgres_owner_password`
\set runtime_password `cat /run/secrets/postgres_runtime_password`

SET log_min_error_statement = panic;  -- the log of a failed statement would have the password

CREATE ROLE gateway_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE gateway LOGIN PASSWORD :'runtime_password';
GRANT pg_read_all_stats TO gateway_owner;  -- `gateway migrate` reports the statements of the sessions that it waits for

ALTER DATABASE gateway OWNER TO gateway_owner;
REVOKE ALL ON DATABASE gateway, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE gateway TO gateway;
