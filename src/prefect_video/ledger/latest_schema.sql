CREATE TABLE ledger_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT ledger_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	shot TEXT NOT NULL, 
	model VARCHAR NOT NULL, 
	take INTEGER NOT NULL, 
	project VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	account VARCHAR NOT NULL, 
	environment VARCHAR NOT NULL, 
	credentials VARCHAR NOT NULL, 
	store VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	owner VARCHAR, 
	generation_id VARCHAR, 
	request_id VARCHAR, 
	reserved_usd BIGINT, 
	actual_usd BIGINT, 
	flow_run_id VARCHAR, 
	task_run_id VARCHAR, 
	created_at VARCHAR NOT NULL, 
	sent_at VARCHAR, 
	submitted_at VARCHAR, 
	completed_at VARCHAR, 
	stored_at VARCHAR, 
	updated_at VARCHAR NOT NULL, 
	estimated_completion_at VARCHAR, 
	deadline_at VARCHAR, 
	expires_at VARCHAR, 
	error_type VARCHAR, 
	error_message TEXT, 
	hold_reason TEXT, 
	asset TEXT, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	waiting_since VARCHAR, 
	unknown_at VARCHAR, 
	disputed_usd BIGINT, 
	store_id VARCHAR, 
	on_mismatch VARCHAR, 
	left_count INTEGER DEFAULT '0' NOT NULL, 
	left_reason TEXT, 
	seconds_taken FLOAT, 
	max_attempts INTEGER DEFAULT '2' NOT NULL, 
	quality_policy TEXT, 
	quality TEXT, 
	requester VARCHAR, 
	key_fingerprint VARCHAR, 
	traceparent VARCHAR, 
	degraded TEXT, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX uq_jobs_in_progress ON jobs (environment, fingerprint) WHERE state IN ('completed', 'reserved', 'submitted', 'submitting', 'unknown');

CREATE UNIQUE INDEX uq_jobs_generation ON jobs (account, generation_id) WHERE generation_id IS NOT NULL;

CREATE INDEX ix_jobs_fingerprint ON jobs (environment, fingerprint, state);

CREATE INDEX ix_jobs_unfinished ON jobs (created_at) WHERE state IN ('completed', 'reserved', 'submitted', 'submitting', 'unknown');

CREATE INDEX ix_jobs_held ON jobs (created_at) WHERE hold_reason IS NOT NULL;

CREATE INDEX ix_jobs_degraded ON jobs (created_at) WHERE degraded IS NOT NULL;

CREATE INDEX ix_jobs_late ON jobs (state) WHERE substr(fingerprint, 1, 5) = 'late:';

CREATE INDEX ix_jobs_waiting ON jobs (account, waiting_since) WHERE waiting_since IS NOT NULL;

CREATE INDEX ix_jobs_blocked ON jobs (provider) WHERE error_type IN ('ContentPolicyError', 'GenerationBlocked');

CREATE INDEX ix_jobs_flow_run ON jobs (flow_run_id);

CREATE INDEX ix_jobs_sent ON jobs (account, sent_at);

CREATE INDEX ix_jobs_submitted ON jobs (account, submitted_at);

CREATE INDEX ix_jobs_project ON jobs (project, state, actual_usd, reserved_usd);

CREATE INDEX ix_jobs_account ON jobs (account, state, actual_usd, reserved_usd);

CREATE INDEX ix_jobs_created ON jobs (created_at, state, actual_usd, reserved_usd);

CREATE INDEX ix_jobs_key ON jobs (key_fingerprint, generation_id) WHERE generation_id IS NOT NULL;

CREATE INDEX ix_jobs_requester ON jobs (requester, created_at, state, actual_usd, reserved_usd);

CREATE TABLE history (
	id INTEGER NOT NULL, 
	job_id VARCHAR NOT NULL, 
	at VARCHAR NOT NULL, 
	from_state VARCHAR, 
	to_state VARCHAR NOT NULL, 
	detail TEXT, 
	owner VARCHAR, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX ix_history_job ON history (job_id);

CREATE INDEX ix_history_sending ON history (at) WHERE to_state = 'submitting';

CREATE TRIGGER history_no_update BEFORE UPDATE ON history BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;

CREATE TRIGGER history_no_delete BEFORE DELETE ON history WHEN COALESCE(OLD.at >= (SELECT pruned_before FROM ledger_identity), TRUE) BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;

CREATE TABLE owners (
	id VARCHAR NOT NULL, 
	host VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	heartbeat_at VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);

CREATE TABLE accounts (
	id VARCHAR NOT NULL, 
	slots INTEGER, 
	slots_at VARCHAR, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	open_until VARCHAR, 
	probing_until VARCHAR, 
	quota_until VARCHAR, 
	PRIMARY KEY (id)
);

CREATE TABLE account_keys (
	account VARCHAR NOT NULL, 
	key_fingerprint VARCHAR NOT NULL, 
	first_used_at VARCHAR NOT NULL, 
	last_used_at VARCHAR NOT NULL, 
	reminded_at VARCHAR, 
	PRIMARY KEY (account, key_fingerprint)
);

CREATE TABLE copies (
	job_id VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	shot_id VARCHAR NOT NULL, 
	asset TEXT NOT NULL, 
	PRIMARY KEY (job_id, project, shot_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE stores (
	url VARCHAR NOT NULL, 
	store_id VARCHAR NOT NULL, 
	PRIMARY KEY (url, store_id)
);

CREATE TABLE allowed_prompts (
	fingerprint VARCHAR NOT NULL, 
	note TEXT NOT NULL, 
	at VARCHAR NOT NULL, 
	PRIMARY KEY (fingerprint)
);

CREATE TABLE idempotency_keys (
	environment VARCHAR NOT NULL, 
	requester VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	request_digest VARCHAR NOT NULL, 
	account VARCHAR NOT NULL, 
	job_id VARCHAR, 
	created_at VARCHAR NOT NULL, 
	PRIMARY KEY (environment, requester, "key"), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX ix_idempotency_keys_job ON idempotency_keys (job_id);

CREATE TABLE choices (
	environment VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	shot_id VARCHAR NOT NULL, 
	prompt TEXT NOT NULL, 
	new_prompt TEXT, 
	take INTEGER, 
	fingerprint VARCHAR, 
	is_dropped BOOLEAN NOT NULL, 
	decided_by VARCHAR NOT NULL, 
	decided_at VARCHAR NOT NULL, 
	PRIMARY KEY (environment, project, shot_id)
);

CREATE TABLE approval_requests (
	environment VARCHAR NOT NULL, 
	project VARCHAR NOT NULL, 
	shot_id VARCHAR NOT NULL, 
	takes TEXT NOT NULL, 
	proposed INTEGER NOT NULL, 
	asked_at VARCHAR NOT NULL, 
	due_at VARCHAR, 
	on_no_answer VARCHAR NOT NULL, 
	PRIMARY KEY (environment, project, shot_id)
);

CREATE TABLE webhook_events (
	account VARCHAR NOT NULL, 
	event_id VARCHAR NOT NULL, 
	generation_id VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	received_at VARCHAR NOT NULL, 
	handled_at VARCHAR, 
	reported TEXT, 
	PRIMARY KEY (account, event_id)
);

CREATE INDEX ix_webhook_events_generation ON webhook_events (account, generation_id);

CREATE INDEX ix_webhook_events_pending ON webhook_events (received_at) WHERE handled_at IS NULL;

CREATE TABLE project_requests (
	id VARCHAR NOT NULL, 
	environment VARCHAR NOT NULL, 
	requester TEXT NOT NULL, 
	project TEXT NOT NULL, 
	refresh BOOLEAN NOT NULL, 
	owner VARCHAR, 
	created_at VARCHAR NOT NULL, 
	ended_at VARCHAR, 
	flow_run_id VARCHAR, 
	error TEXT, 
	PRIMARY KEY (id)
);

CREATE TABLE deferred_runs (
	id VARCHAR NOT NULL, 
	environment VARCHAR NOT NULL, 
	project TEXT NOT NULL, 
	credentials TEXT NOT NULL, 
	store VARCHAR NOT NULL, 
	owner VARCHAR, 
	created_at VARCHAR NOT NULL, 
	reported VARCHAR, 
	PRIMARY KEY (id)
);

CREATE TABLE callbacks (
	id VARCHAR NOT NULL, 
	environment VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	requester VARCHAR NOT NULL, 
	url TEXT NOT NULL, 
	created_at VARCHAR NOT NULL, 
	next_at VARCHAR NOT NULL, 
	attempts INTEGER NOT NULL, 
	ended_at VARCHAR, 
	error TEXT, 
	PRIMARY KEY (id)
);

CREATE INDEX ix_project_requests_open ON project_requests (created_at) WHERE ended_at IS NULL;

CREATE INDEX ix_callbacks_open ON callbacks (next_at) WHERE ended_at IS NULL;

CREATE TABLE ledger_identity (
	id VARCHAR NOT NULL, 
	pruned_before VARCHAR, 
	PRIMARY KEY (id)
);

CREATE TABLE committed_sums (
	scope VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	month VARCHAR NOT NULL, 
	part BIGINT NOT NULL, 
	spent_usd BIGINT NOT NULL, 
	reserved_usd BIGINT NOT NULL, 
	videos BIGINT NOT NULL, 
	unpriced BIGINT NOT NULL, 
	unpriced_reserved BIGINT NOT NULL, 
	PRIMARY KEY (scope, name, month, part)
);

CREATE INDEX ix_committed_sums_parts ON committed_sums (part) WHERE part <> 0;

CREATE TRIGGER committed_sums_insert AFTER INSERT ON jobs BEGIN INSERT INTO committed_sums (scope, name, month, part, spent_usd, reserved_usd, videos, unpriced, unpriced_reserved) SELECT scope, name, substr(NEW.created_at, 1, 7), 0, +(CASE WHEN NEW.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END), +(CASE WHEN NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' THEN 1 ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL THEN 1 ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL AND NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) FROM (SELECT 'month' AS scope, '' AS name UNION ALL SELECT 'account', NEW.account UNION ALL SELECT 'environment', NEW.environment UNION ALL SELECT 'project', NEW.project UNION ALL SELECT 'requester', NEW.requester) AS s WHERE name IS NOT NULL ON CONFLICT (scope, name, month, part) DO UPDATE SET spent_usd = committed_sums.spent_usd + excluded.spent_usd, reserved_usd = committed_sums.reserved_usd + excluded.reserved_usd, videos = committed_sums.videos + excluded.videos, unpriced = committed_sums.unpriced + excluded.unpriced, unpriced_reserved = committed_sums.unpriced_reserved + excluded.unpriced_reserved; END;

CREATE TRIGGER committed_sums_delete AFTER DELETE ON jobs BEGIN INSERT INTO committed_sums (scope, name, month, part, spent_usd, reserved_usd, videos, unpriced, unpriced_reserved) SELECT scope, name, substr(OLD.created_at, 1, 7), 0, -(CASE WHEN OLD.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END), -(CASE WHEN OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' THEN 1 ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL THEN 1 ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL AND OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) FROM (SELECT 'month' AS scope, '' AS name UNION ALL SELECT 'account', OLD.account UNION ALL SELECT 'environment', OLD.environment UNION ALL SELECT 'project', OLD.project UNION ALL SELECT 'requester', OLD.requester) AS s WHERE name IS NOT NULL ON CONFLICT (scope, name, month, part) DO UPDATE SET spent_usd = committed_sums.spent_usd + excluded.spent_usd, reserved_usd = committed_sums.reserved_usd + excluded.reserved_usd, videos = committed_sums.videos + excluded.videos, unpriced = committed_sums.unpriced + excluded.unpriced, unpriced_reserved = committed_sums.unpriced_reserved + excluded.unpriced_reserved; END;

CREATE TRIGGER committed_sums_update AFTER UPDATE ON jobs WHEN (OLD.account, OLD.environment, OLD.project, OLD.requester, substr(OLD.created_at, 1, 7), CASE WHEN OLD.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END, CASE WHEN OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END, CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' THEN 1 ELSE 0 END, CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL THEN 1 ELSE 0 END, CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL AND OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) IS NOT (NEW.account, NEW.environment, NEW.project, NEW.requester, substr(NEW.created_at, 1, 7), CASE WHEN NEW.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END, CASE WHEN NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END, CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' THEN 1 ELSE 0 END, CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL THEN 1 ELSE 0 END, CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL AND NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) BEGIN INSERT INTO committed_sums (scope, name, month, part, spent_usd, reserved_usd, videos, unpriced, unpriced_reserved) SELECT scope, name, substr(OLD.created_at, 1, 7), 0, -(CASE WHEN OLD.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END), -(CASE WHEN OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(OLD.actual_usd, OLD.reserved_usd), 0) ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' THEN 1 ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL THEN 1 ELSE 0 END), -(CASE WHEN OLD.state <> 'released' AND NOT (OLD.state IN ('failed', 'cancelled') AND COALESCE(OLD.actual_usd, 1) = 0) AND OLD.provider <> 'manual' AND COALESCE(OLD.actual_usd, OLD.reserved_usd) IS NULL AND OLD.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) FROM (SELECT 'month' AS scope, '' AS name UNION ALL SELECT 'account', OLD.account UNION ALL SELECT 'environment', OLD.environment UNION ALL SELECT 'project', OLD.project UNION ALL SELECT 'requester', OLD.requester) AS s WHERE name IS NOT NULL ON CONFLICT (scope, name, month, part) DO UPDATE SET spent_usd = committed_sums.spent_usd + excluded.spent_usd, reserved_usd = committed_sums.reserved_usd + excluded.reserved_usd, videos = committed_sums.videos + excluded.videos, unpriced = committed_sums.unpriced + excluded.unpriced, unpriced_reserved = committed_sums.unpriced_reserved + excluded.unpriced_reserved; INSERT INTO committed_sums (scope, name, month, part, spent_usd, reserved_usd, videos, unpriced, unpriced_reserved) SELECT scope, name, substr(NEW.created_at, 1, 7), 0, +(CASE WHEN NEW.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END), +(CASE WHEN NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN COALESCE(COALESCE(NEW.actual_usd, NEW.reserved_usd), 0) ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' THEN 1 ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL THEN 1 ELSE 0 END), +(CASE WHEN NEW.state <> 'released' AND NOT (NEW.state IN ('failed', 'cancelled') AND COALESCE(NEW.actual_usd, 1) = 0) AND NEW.provider <> 'manual' AND COALESCE(NEW.actual_usd, NEW.reserved_usd) IS NULL AND NEW.state IN ('reserved', 'submitting', 'unknown', 'submitted') THEN 1 ELSE 0 END) FROM (SELECT 'month' AS scope, '' AS name UNION ALL SELECT 'account', NEW.account UNION ALL SELECT 'environment', NEW.environment UNION ALL SELECT 'project', NEW.project UNION ALL SELECT 'requester', NEW.requester) AS s WHERE name IS NOT NULL ON CONFLICT (scope, name, month, part) DO UPDATE SET spent_usd = committed_sums.spent_usd + excluded.spent_usd, reserved_usd = committed_sums.reserved_usd + excluded.reserved_usd, videos = committed_sums.videos + excluded.videos, unpriced = committed_sums.unpriced + excluded.unpriced, unpriced_reserved = committed_sums.unpriced_reserved + excluded.unpriced_reserved; END
