"""The tables of the sqlite store, and how a database of an earlier version comes to have them.

    jobs        a record a row, with what it is found by beside its text
    tenants     what each tenant has there, kept up by triggers, and the number of the claim that it last had
    sizes       the bytes of each job's files: those that go at its end, and those that stay
    owners, outbox, notes, settings

Tables are added to and never changed, so that a server that goes back to its earlier version finds what it knows.
"""

import apsw

VERSION = 1  # of the schema, as ``user_version``; a database of 0 has no counts yet
SET_ASIDE = "status='unreadable'"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT, status TEXT NOT NULL, model TEXT NOT NULL,
    version INTEGER NOT NULL, owner TEXT, claim_order TEXT, due_at REAL, record TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX IF NOT EXISTS jobs_by_turn ON jobs (tenant, claim_order) WHERE claim_order IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_set_aside ON jobs (id) WHERE {SET_ASIDE};
CREATE TABLE IF NOT EXISTS tenants (
    tenant TEXT PRIMARY KEY, queued INTEGER NOT NULL, running INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sizes (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, passing INTEGER NOT NULL, kept INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, lease_until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, due_at REAL NOT NULL, message TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_at);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, until REAL NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS notes_until ON notes (until);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# A job is queued where it has a claim order, and runs where it has an owner.
COUNTS = """
INSERT INTO tenants (tenant, queued, running)
    SELECT tenant, sum(claim_order IS NOT NULL), sum(owner IS NOT NULL) FROM jobs GROUP BY tenant;
CREATE TRIGGER jobs_counted AFTER INSERT ON jobs BEGIN
    INSERT INTO tenants (tenant, queued, running)
        VALUES (new.tenant, new.claim_order IS NOT NULL, new.owner IS NOT NULL)
        ON CONFLICT (tenant) DO UPDATE SET queued=queued+excluded.queued, running=running+excluded.running;
END;
CREATE TRIGGER jobs_recounted AFTER UPDATE OF claim_order, owner ON jobs
WHEN (old.claim_order IS NULL) <> (new.claim_order IS NULL) OR (old.owner IS NULL) <> (new.owner IS NULL) BEGIN
    UPDATE tenants SET queued=queued+(new.claim_order IS NOT NULL)-(old.claim_order IS NOT NULL),
        running=running+(new.owner IS NOT NULL)-(old.owner IS NOT NULL) WHERE tenant=new.tenant;
END;
CREATE TRIGGER jobs_forgotten AFTER DELETE ON jobs BEGIN
    UPDATE tenants SET queued=queued-(old.claim_order IS NOT NULL), running=running-(old.owner IS NOT NULL)
        WHERE tenant=old.tenant;
    DELETE FROM sizes WHERE id=old.id;
END;
CREATE TRIGGER sizes_added AFTER INSERT ON sizes BEGIN
    UPDATE tenants SET stored_bytes=stored_bytes+new.passing+new.kept WHERE tenant=new.tenant;
END;
CREATE TRIGGER sizes_changed AFTER UPDATE ON sizes BEGIN
    UPDATE tenants SET stored_bytes=stored_bytes+new.passing+new.kept-old.passing-old.kept WHERE tenant=new.tenant;
END;
CREATE TRIGGER sizes_removed AFTER DELETE ON sizes BEGIN
    UPDATE tenants SET stored_bytes=stored_bytes-old.passing-old.kept WHERE tenant=old.tenant;
END;
INSERT INTO sizes
    SELECT job, tenant, 0, CAST(total(json_extract(text, image.fullkey || '.bytes')) AS INTEGER)
    FROM (SELECT id AS job, tenant, CASE WHEN json_valid(record) THEN record ELSE '{}' END AS text FROM jobs),
        json_each(text, '$.result.images') AS image
    GROUP BY job, tenant;
DROP INDEX IF EXISTS jobs_queued;
DROP INDEX IF EXISTS jobs_open;
"""


def prepare(db: apsw.Connection) -> None:
    """Bring a database to this version, within the transaction that is open."""
    db.execute(SCHEMA)
    if int(db.pragma("user_version")) < VERSION:
        db.execute(COUNTS)
        db.pragma("user_version", VERSION)
