-- Give the roles of roles.sql to a volume whose superuser is called `gateway`. The tables get the new owner; the data stays.
-- docs/stack.md has the command. The superuser keeps its other databases and gets the name `postgres`.

\set ON_ERROR_STOP on
\set superuser_password `cat /run/secrets/postgres_password`

-- A session cannot rename its own user.
CREATE ROLE upgrade SUPERUSER LOGIN;
\connect - upgrade
ALTER ROLE gateway RENAME TO postgres;
\connect - postgres
DROP ROLE upgrade;

SET log_min_error_statement = panic;
ALTER ROLE postgres PASSWORD :'superuser_password';
\i /docker-entrypoint-initdb.d/roles.sql
SELECT format('ALTER TABLE %I OWNER TO gateway_owner', tablename) FROM pg_tables WHERE schemaname = 'public' \gexec
