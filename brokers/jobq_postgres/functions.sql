-- Every verb of the broker is one call of one function: one round trip, and one transaction that is never left open.
-- Their plans do not depend on what the tables were like when a connection first used them: what is looked up for each
-- element of an array is in a subquery with OFFSET 0, which is never joined the other way round.
-- A function that has to change in what it takes, gives or means gets the next number, and the old one stays.

CREATE OR REPLACE FUNCTION $SCHEMA.lane_1(priority smallint, crashes jsonb) RETURNS smallint
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN jsonb_array_length(crashes) >= 2 THEN 5 ELSE 4 - priority END::smallint $$;

-- Who sleeps and wants to be woken holds the lock, and looks for work after he got it. Who has committed work asks for
-- the lock: if it can be had, nobody sleeps, and nobody is rung for. So what was committed is either seen or rung for.
CREATE OR REPLACE FUNCTION $SCHEMA.sleep_1() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_lock_shared(hashtext('jobq sleepers'), hashtext('$NAME')) $$;

CREATE OR REPLACE FUNCTION $SCHEMA.awake_1() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_unlock_shared(hashtext('jobq sleepers'), hashtext('$NAME')) $$;

CREATE OR REPLACE FUNCTION $SCHEMA.ring_1(queues text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtext('jobq sleepers'), hashtext('$NAME')) THEN
        RETURN false;
    END IF;
    PERFORM pg_notify('jobq:$NAME', queue) FROM unnest(queues) AS queue;
    RETURN true;
END $$;

-- Stores up to 1,000 jobs; a queue or a priority that is left out is that of the first. Answers which of them, counted
-- from 1, were not stored, and whether to ring for their queues.
CREATE OR REPLACE FUNCTION $SCHEMA.enqueue_1(
    p_client text, p_number bigint, p_ids text[], p_queues text[], p_priorities smallint[], p_envelopes bytea[],
    p_due double precision[], p_delays double precision[], p_now timestamptz
) RETURNS TABLE (duplicates integer[], woken boolean) LANGUAGE plpgsql $SETTINGS AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_place bigint := nextval('$SCHEMA.places') * 1024;
    v_queue text := p_queues[1];
    v_priority smallint := p_priorities[1];
    v_first timestamptz;
    v_count integer := 0;
BEGIN
    woken := false;
    IF p_client IS NOT NULL THEN
        INSERT INTO $SCHEMA.stamps AS s VALUES (p_client, p_number, '{}', v_now)
        ON CONFLICT (client) DO UPDATE SET number = excluded.number, duplicates = '{}', at = excluded.at
        WHERE s.number < excluded.number;
        IF NOT FOUND THEN
            SELECT s.duplicates INTO duplicates FROM $SCHEMA.stamps AS s WHERE client = p_client AND number = p_number;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    IF p_due IS NULL THEN
        woken := true;
        BEGIN
            INSERT INTO $SCHEMA.jobs (id, queue, priority, lane, pos, envelope)
            SELECT id, coalesce(queue, v_queue), coalesce(priority, v_priority), 4 - coalesce(priority, v_priority),
                v_place + i, envelope
            FROM unnest(p_ids, p_queues, p_priorities, p_envelopes) WITH ORDINALITY
                AS o (id, queue, priority, envelope, i);
            GET DIAGNOSTICS v_count = ROW_COUNT;
        EXCEPTION WHEN unique_violation THEN -- asking for conflicts takes a quarter longer, and hardly ever are there any
            v_count := 0;
        END;
    ELSE
        SELECT due INTO v_first FROM $SCHEMA.jobs WHERE due IS NOT NULL ORDER BY due, pos LIMIT 1;
    END IF;

    IF v_count < cardinality(p_ids) THEN
        WITH asked AS MATERIALIZED (
            SELECT id, coalesce(queue, v_queue) AS queue, coalesce(priority, v_priority) AS priority,
                envelope, i, CASE -- GREATEST and LEAST take no notice of NULL
                    WHEN at IS NOT NULL THEN to_timestamp(least(greatest(at, -1e10), 1e12))
                    WHEN delay IS NOT NULL THEN v_now + least(greatest(delay, -1e10), 1e12) * interval '1 second'
                END AS due
            FROM unnest(p_ids, p_queues, p_priorities, p_envelopes, p_due, p_delays) WITH ORDINALITY
                AS o (id, queue, priority, envelope, at, delay, i)
        ), stored AS (
            INSERT INTO $SCHEMA.jobs (id, queue, priority, lane, pos, due, envelope)
            SELECT id, queue, priority, 4 - priority, (v_place + i) * CASE WHEN due <= v_now THEN -1 ELSE 1 END,
                CASE WHEN due > v_now THEN due END, envelope
            FROM asked ON CONFLICT (id) DO NOTHING RETURNING abs(pos) - v_place AS i, due
        )
        SELECT
            (SELECT array_agg(i ORDER BY i) FROM asked WHERE i NOT IN (SELECT i FROM stored)),
            EXISTS (SELECT 1 FROM stored WHERE due IS NULL OR due < v_first OR v_first IS NULL)
        INTO duplicates, woken;
        IF duplicates IS NOT NULL AND p_client IS NOT NULL THEN
            UPDATE $SCHEMA.stamps AS s SET duplicates = enqueue_1.duplicates WHERE client = p_client;
        END IF;
    END IF;
    IF EXISTS (SELECT 1 FROM $SCHEMA.dead) THEN
        DELETE FROM $SCHEMA.dead WHERE id = ANY (p_ids) AND EXISTS (
            SELECT 1 FROM $SCHEMA.jobs AS j WHERE j.id = dead.id AND abs(pos) BETWEEN v_place AND v_place + 1023 OFFSET 0
        );
    END IF;
    RETURN NEXT;
END $$;

-- The same in a transaction of the caller's, with the jobs as a JSON array; answers which were not stored.
CREATE OR REPLACE FUNCTION $SCHEMA.enqueue_within_1(p_jobs text, p_ring boolean) RETURNS integer[]
LANGUAGE plpgsql AS $$
DECLARE
    v_jobs record;
    v_answer record;
BEGIN
    SELECT array_agg(id ORDER BY i) AS ids, array_agg(queue ORDER BY i) AS queues,
        array_agg(priority ORDER BY i) AS priorities, array_agg(convert_to(envelope, 'UTF8') ORDER BY i) AS envelopes,
        CASE WHEN count(due) + count(delay) > 0 THEN array_agg(due ORDER BY i) END AS due,
        array_agg(delay ORDER BY i) AS delays
    INTO v_jobs
    FROM ROWS FROM (json_to_recordset(p_jobs::json) AS (
        id text, queue text, priority smallint, envelope text, due double precision, delay double precision
    )) WITH ORDINALITY AS o (id, queue, priority, envelope, due, delay, i);
    SELECT * INTO v_answer FROM $SCHEMA.enqueue_1(
        NULL, NULL, v_jobs.ids, v_jobs.queues, v_jobs.priorities, v_jobs.envelopes, v_jobs.due, v_jobs.delays, NULL
    );
    IF p_ring AND v_answer.woken THEN -- is sent when the transaction commits, equal ones once
        PERFORM pg_notify('jobq:$NAME', queue) FROM unnest(v_jobs.queues) AS queue;
    END IF;
    RETURN v_answer.duplicates;
END $$;

-- The crashes that were charged for these tokens did not happen: their worker is alive.
CREATE OR REPLACE FUNCTION $SCHEMA.take_back_1(p_ids text[], p_epochs bigint[]) RETURNS void
LANGUAGE plpgsql $SETTINGS AS $$
BEGIN
    UPDATE $SCHEMA.jobs AS j SET crashes = (
        SELECT jsonb_agg(c ORDER BY i) FROM jsonb_array_elements(j.crashes) WITH ORDINALITY AS n (c, i)
        WHERE c -> 0 <> ALL (o.struck)
    )
    FROM (
        SELECT tid, struck FROM (
            SELECT id, array_agg(to_jsonb(epoch)) AS struck FROM unnest(p_ids, p_epochs) AS t (id, epoch) GROUP BY id
        ) AS g, LATERAL (
            SELECT ctid AS tid FROM $SCHEMA.jobs AS f
            WHERE f.id = g.id AND EXISTS (SELECT 1 FROM jsonb_array_elements(f.crashes) AS c WHERE c -> 0 = ANY (struck))
            FOR UPDATE OFFSET 0
        ) AS l
    ) AS o
    WHERE j.ctid = tid;
END $$;

-- Makes jobs ready that have become due since then, the earliest foremost; answers how many.
CREATE OR REPLACE FUNCTION $SCHEMA.promote_1(p_limit integer, p_since timestamptz, p_now timestamptz) RETURNS integer
LANGUAGE plpgsql $SETTINGS AS $$
DECLARE
    v_count integer;
BEGIN
    WITH chosen AS MATERIALIZED (
        SELECT ctid AS tid, due, pos FROM $SCHEMA.jobs
        WHERE due BETWEEN p_since AND p_now ORDER BY due, pos LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), placed AS MATERIALIZED (
        SELECT tid, nextval('$SCHEMA.places') * 1024 AS place FROM (SELECT tid FROM chosen ORDER BY due DESC, pos DESC) AS c
    )
    UPDATE $SCHEMA.jobs AS j SET due = NULL, pos = -place, lane = $SCHEMA.lane_1(priority, crashes)
    FROM placed WHERE j.ctid = placed.tid;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- New epochs are above one that somebody has received from a database that was restored since. The leap leaves out what
-- others may draw at this moment.
CREATE OR REPLACE FUNCTION $SCHEMA.catch_up_1(p_resume bigint) RETURNS void
LANGUAGE plpgsql $SETTINGS AS $$
BEGIN
    IF p_resume > 0 AND (SELECT last_value FROM $SCHEMA.epochs) < p_resume THEN
        PERFORM pg_advisory_xact_lock(hashtext('$NAME.epochs'));
        IF (SELECT last_value FROM $SCHEMA.epochs) < p_resume THEN
            PERFORM setval('$SCHEMA.epochs', p_resume + 100000);
        END IF;
    END IF;
END $$;

-- While somebody's snapshot is older than they are, dead rows cannot be cleared away, and who looks for ready jobs passes
-- all of them. A mark is a place of a lane: below it, no job was left that was ready. So new jobs are above it, and what
-- comes back is below its negative. What it hides is a job whose transaction commits long after it drew its place: that
-- is why marks are far from the newest places, and forgotten every few seconds. A call takes and answers six marks for
-- each queue, and a last one for all that is scheduled: the microsecond before which nothing is due any more.

-- Locks the foremost ready jobs beyond a mark: where they are, and the place of the last one if there may be more.
CREATE OR REPLACE FUNCTION $SCHEMA.pick_1(p_queue text, p_lane integer, p_mark bigint, p_limit integer)
RETURNS TABLE (tids tid[], last bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_more tid[];
BEGIN
    SELECT array_agg(tid) INTO tids FROM (
        SELECT ctid AS tid FROM $SCHEMA.jobs
        WHERE queue = p_queue AND lane = p_lane AND pos <= -p_mark AND due IS NULL AND epoch IS NULL
        ORDER BY pos LIMIT p_limit FOR UPDATE SKIP LOCKED
    ) AS c;
    IF cardinality(tids) = p_limit THEN
        last := p_mark - 1;
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT array_agg(tid), CASE WHEN count(*) = p_limit - coalesce(cardinality(tids), 0) THEN max(pos) END
    INTO v_more, last FROM (
        SELECT ctid AS tid, pos FROM $SCHEMA.jobs
        WHERE queue = p_queue AND lane = p_lane AND pos >= p_mark AND due IS NULL AND epoch IS NULL
        ORDER BY pos LIMIT p_limit - coalesce(cardinality(tids), 0) FOR UPDATE SKIP LOCKED
    ) AS c;
    tids := tids || v_more;
    RETURN NEXT;
END $$;

-- Whether any job of these queues is ready, beyond the marks if there are any.
CREATE OR REPLACE FUNCTION $SCHEMA.is_ready_1(p_queues text[], p_marks bigint[]) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF p_marks IS NULL THEN
        RETURN EXISTS (
            SELECT 1 FROM unnest(p_queues) AS q WHERE EXISTS (
                SELECT 1 FROM $SCHEMA.jobs AS j WHERE j.queue = q AND due IS NULL AND epoch IS NULL OFFSET 0
            )
        );
    END IF;
    RETURN EXISTS (
        SELECT 1 FROM unnest(p_marks[1:6 * cardinality(p_queues)]) WITH ORDINALITY AS m (mark, i) WHERE EXISTS (
            SELECT 1 FROM $SCHEMA.jobs AS j
            WHERE j.queue = p_queues[(i + 5) / 6] AND lane = (i - 1) % 6 AND pos <= -mark
                AND due IS NULL AND epoch IS NULL
        ) OR EXISTS (
            SELECT 1 FROM $SCHEMA.jobs AS j
            WHERE j.queue = p_queues[(i + 5) / 6] AND lane = (i - 1) % 6 AND pos >= mark
                AND due IS NULL AND epoch IS NULL
        )
    );
END $$;

-- `p_ids` are jobs that have ended and are not kept; for the others, one letter each: A again, R released, K dead and
-- kept, D done and kept for its delay. Answers a row for each delivery, and a last one with which of the outcomes, all
-- counted from 1, were refused, and for how many seconds it looked for ready jobs.
-- With marks it claims beyond them (see `pick_1`), and answers the next ones, no place among which is above the ceiling.
-- `place` is the next one that is drawn, if there are marks or looking was slow.
CREATE OR REPLACE FUNCTION $SCHEMA.turn_1(
    p_worker text, p_ids text[], p_epochs bigint[],
    p_kinds text, p_other_ids text[], p_other_epochs bigint[], p_delays double precision[], p_trails bytea[],
    p_to text[], p_queues text[], p_limit integer, p_suspects boolean, p_resume bigint, p_now timestamptz,
    p_marks bigint[], p_ceiling bigint
) RETURNS TABLE (
    id text, epoch bigint, queue text, envelope bytea, trail bytea, crashes text, refused integer[],
    next_due double precision, leased boolean, looked double precision, marks bigint[], place bigint
) LANGUAGE plpgsql $SETTINGS AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_worker bigint;
    v_end timestamptz;
    v_due timestamptz;
    v_reschedules boolean;
    v_settled bigint[];
    v_moved bigint[];
    v_left integer := p_limit;
    v_suspects boolean := p_suspects;
    v_locked boolean := false;
    v_count integer;
    v_queue text;
    v_lanes integer[];
    v_lane integer;
    v_limit integer;
    v_base integer := 1;
    v_index integer;
    v_tids tid[];
    v_last bigint;
    v_since timestamptz := coalesce(to_timestamp(p_marks[cardinality(p_marks)] / 1e6), '-infinity');
    v_start timestamptz;
    v_looked interval;
BEGIN
    SELECT n, lease_end INTO v_worker, v_end FROM $SCHEMA.workers AS w WHERE w.id = p_worker;
    v_start := clock_timestamp();
    SELECT due INTO v_due FROM $SCHEMA.jobs WHERE due >= v_since ORDER BY due, pos LIMIT 1;
    v_looked := clock_timestamp() - v_start;
    v_reschedules := coalesce(v_due <= v_now, false) OR cardinality(p_other_ids) > 0;
    IF v_due <= v_now THEN
        PERFORM $SCHEMA.promote_1(1000, v_since, v_now);
    END IF;

    IF cardinality(p_ids) > 0 THEN
        WITH found AS MATERIALIZED (
            SELECT tid, i FROM unnest(p_ids, p_epochs) WITH ORDINALITY AS o (id, epoch, i), LATERAL (
                SELECT ctid AS tid FROM $SCHEMA.jobs AS j
                WHERE j.worker = v_worker AND j.epoch = o.epoch AND j.id = o.id OFFSET 0
            ) AS f
        ), ended AS (
            DELETE FROM $SCHEMA.jobs AS j USING found WHERE j.ctid = tid RETURNING i
        )
        SELECT array_agg(i) INTO v_settled FROM ended;
        IF coalesce(cardinality(v_settled), 0) < cardinality(p_ids) THEN
            SELECT array_agg(i) INTO refused FROM generate_subscripts(p_ids, 1) AS i
            WHERE i <> ALL (coalesce(v_settled, '{}'));
        END IF;
    END IF;

    IF cardinality(p_other_ids) > 0 THEN
        WITH found AS MATERIALIZED (
            SELECT tid, substr(p_kinds, i::integer, 1) AS kind, delay, trail, dest, i
            FROM unnest(p_other_ids, p_other_epochs, p_delays, p_trails, p_to) WITH ORDINALITY
                AS o (id, epoch, delay, trail, dest, i),
            LATERAL (
                SELECT ctid AS tid FROM $SCHEMA.jobs AS j
                WHERE j.worker = v_worker AND j.epoch = o.epoch AND j.id = o.id OFFSET 0
            ) AS f
        ), moved AS (
            UPDATE $SCHEMA.jobs AS j SET
                worker = NULL, epoch = NULL, queue = coalesce(o.dest, j.queue), trail = coalesce(o.trail, j.trail),
                due = CASE WHEN delay > 0 THEN v_now + least(delay, 1e12) * interval '1 second' END,
                pos = place * CASE WHEN delay > 0 THEN 1 ELSE -1 END,
                lane = $SCHEMA.lane_1(priority, crashes)
            FROM (
                SELECT *, nextval('$SCHEMA.places') * 1024 AS place FROM found WHERE kind IN ('A', 'R')
            ) AS o
            WHERE j.ctid = tid RETURNING i
        ), taken AS (
            DELETE FROM $SCHEMA.jobs AS j USING found AS o
            WHERE j.ctid = tid AND kind IN ('D', 'K')
            RETURNING i, kind, j.id, j.queue, j.priority, j.envelope, coalesce(o.trail, j.trail) AS trail, j.crashes, delay
        ), buried AS (
            INSERT INTO $SCHEMA.dead AS d (n, id, queue, priority, died, envelope, trail, crashes)
            SELECT nextval('$SCHEMA.places'), id, queue, priority, v_now, envelope, trail, crashes
            FROM (SELECT * FROM taken WHERE kind = 'K' ORDER BY i) AS t
            ON CONFLICT (id) DO UPDATE SET
                n = excluded.n, queue = excluded.queue, priority = excluded.priority, died = excluded.died,
                envelope = excluded.envelope, trail = excluded.trail, crashes = excluded.crashes
        ), kept AS (
            INSERT INTO $SCHEMA.done (n, id, queue, priority, ended, until, envelope, trail)
            SELECT nextval('$SCHEMA.places'), id, queue, priority, v_now, v_now + delay * interval '1 second', envelope, trail
            FROM (SELECT * FROM taken WHERE kind = 'D' ORDER BY i) AS t
        )
        SELECT (SELECT array_agg(i) FROM moved), (SELECT array_agg(i) FROM taken) INTO v_moved, v_settled;
        v_settled := coalesce(v_settled, '{}') || v_moved;
        IF cardinality(v_settled) < cardinality(p_other_ids) THEN
            SELECT coalesce(refused, '{}') || array_agg(cardinality(p_ids) + i) INTO refused
            FROM generate_subscripts(p_other_ids, 1) AS i WHERE i <> ALL (v_settled);
        END IF;
    END IF;

    IF refused IS NOT NULL THEN
        PERFORM $SCHEMA.take_back_1(array_agg(t.id), array_agg(t.epoch))
        FROM unnest(p_ids || p_other_ids, p_epochs || p_other_epochs) WITH ORDINALITY AS t (id, epoch, i)
        WHERE i = ANY (refused);
    END IF;

    leased := coalesce(v_end > v_now, false);
    IF leased THEN
        RETURN QUERY SELECT j.id, j.epoch, j.queue, j.envelope, j.trail, j.crashes::text, NULL::integer[],
                NULL::double precision, NULL::boolean, NULL::double precision, NULL::bigint[], NULL::bigint
            FROM $SCHEMA.jobs AS j WHERE j.worker = v_worker AND j.epoch > p_resume ORDER BY j.epoch;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_left := v_left - v_count;
        IF v_count > 0 AND v_suspects THEN -- one among those is the one of this turn
            v_suspects := NOT EXISTS (
                SELECT 1 FROM $SCHEMA.jobs AS j
                WHERE j.worker = v_worker AND j.epoch > p_resume AND jsonb_array_length(j.crashes) >= 2
            );
        END IF;
    END IF;

    marks := p_marks;
    IF marks IS NOT NULL THEN
        place := (pg_sequence_last_value('$SCHEMA.places') + 1) * 1024;
        v_lanes := '{5,0,1,2,3,4}';
    ELSE
        v_lanes := '{5,0}'; -- 0 is 0 to 4
    END IF;
    FOREACH v_queue IN ARRAY p_queues LOOP
        EXIT WHEN marks IS NULL AND (v_left <= 0 OR NOT leased);
        FOREACH v_lane IN ARRAY v_lanes LOOP
            EXIT WHEN v_left <= 0 OR NOT leased;
            CONTINUE WHEN v_lane = 5 AND NOT v_suspects;
            v_limit := CASE v_lane WHEN 5 THEN 1 ELSE v_left END;
            IF marks IS NULL THEN
                v_start := clock_timestamp();
                SELECT array_agg(tid) INTO v_tids FROM (
                    SELECT ctid AS tid FROM $SCHEMA.jobs AS j
                    WHERE j.queue = v_queue AND lane BETWEEN v_lane AND v_lane + 4 AND due IS NULL AND epoch IS NULL
                    ORDER BY lane, pos LIMIT v_limit FOR UPDATE SKIP LOCKED
                ) AS c;
                v_looked := v_looked + (clock_timestamp() - v_start);
            ELSE
                v_index := v_base + v_lane;
                SELECT tids, last INTO v_tids, v_last FROM $SCHEMA.pick_1(v_queue, v_lane, marks[v_index], v_limit);
                marks[v_index] := greatest(marks[v_index], least(coalesce(v_last + 1, place), p_ceiling));
            END IF;
            CONTINUE WHEN v_tids IS NULL;
            IF NOT v_locked THEN
                PERFORM 1 FROM $SCHEMA.workers WHERE n = v_worker AND lease_end > v_now FOR KEY SHARE;
                leased := FOUND; -- if so, nobody takes this worker for dead until the end of this transaction
                EXIT WHEN NOT leased;
                IF p_resume > coalesce(pg_sequence_last_value('$SCHEMA.epochs'), 0) THEN
                    PERFORM $SCHEMA.catch_up_1(p_resume);
                END IF;
                v_locked := true;
            END IF;
            RETURN QUERY
                UPDATE $SCHEMA.jobs AS j SET worker = v_worker, epoch = its
                FROM (SELECT tid, nextval('$SCHEMA.epochs') AS its FROM unnest(v_tids) AS tid) AS picked
                WHERE j.ctid = tid
                RETURNING j.id, its, j.queue, j.envelope, j.trail, j.crashes::text, NULL::integer[],
                    NULL::double precision, NULL::boolean, NULL::double precision, NULL::bigint[], NULL::bigint;
            v_left := v_left - cardinality(v_tids);
            v_suspects := v_suspects AND v_lane <> 5;
        END LOOP;
        v_base := v_base + 6;
    END LOOP;

    id := NULL; -- the last row
    IF v_reschedules THEN
        SELECT due INTO v_due FROM $SCHEMA.jobs WHERE due >= v_since ORDER BY due, pos LIMIT 1;
    END IF;
    next_due := extract(epoch FROM v_due - v_now);
    IF marks IS NULL THEN
        -- each job that is picked takes a microsecond or two
        looked := CASE WHEN leased AND p_limit > 0 THEN extract(epoch FROM v_looked) - 2e-6 * (p_limit - v_left) END;
        IF looked > 0.0003 THEN
            place := (pg_sequence_last_value('$SCHEMA.places') + 1) * 1024;
        END IF;
    ELSIF v_due IS NULL OR v_due > v_now THEN
        marks[v_base] := greatest(marks[v_base], (extract(epoch FROM v_now) * 1000000)::bigint - 1000000);
    END IF;
    RETURN NEXT;
END $$;

-- Ends a job as done, kept for so many seconds, in a transaction in which it has done its work; false if this worker no
-- longer holds it.
CREATE OR REPLACE FUNCTION $SCHEMA.settle_1(
    p_worker text, p_id text, p_epoch bigint, p_keep double precision
) RETURNS boolean LANGUAGE plpgsql $SETTINGS AS $$
DECLARE
    v_count integer;
BEGIN
    WITH ended AS (
        DELETE FROM $SCHEMA.jobs AS j USING $SCHEMA.workers AS w
        WHERE w.id = p_worker AND j.id = p_id AND j.epoch = p_epoch AND j.worker = w.n
        RETURNING j.id, j.queue, j.priority, j.envelope, j.trail
    ), kept AS (
        INSERT INTO $SCHEMA.done (n, id, queue, priority, ended, until, envelope, trail)
        SELECT nextval('$SCHEMA.places'), id, queue, priority, clock_timestamp(),
            clock_timestamp() + p_keep * interval '1 second', envelope, trail
        FROM ended WHERE p_keep > 0
    )
    SELECT count(*) INTO v_count FROM ended;
    RETURN v_count > 0;
END $$;

-- In how many seconds there is something for who waits for these queues: 0 if it is there now, NULL if nothing is.
CREATE OR REPLACE FUNCTION $SCHEMA.look_1(p_queues text[], p_marks bigint[], p_now timestamptz) RETURNS double precision
LANGUAGE plpgsql $SETTINGS AS $$
DECLARE
    v_since timestamptz := coalesce(to_timestamp(p_marks[cardinality(p_marks)] / 1e6), '-infinity');
BEGIN
    IF $SCHEMA.is_ready_1(p_queues, p_marks) THEN
        RETURN 0;
    END IF;
    RETURN (
        SELECT greatest(0, extract(epoch FROM due - coalesce(p_now, clock_timestamp()))) FROM $SCHEMA.jobs
        WHERE due >= v_since ORDER BY due, pos LIMIT 1
    );
END $$;

-- Puts dead jobs back, with these trails, those that are still as they were found; answers how many.
CREATE OR REPLACE FUNCTION $SCHEMA.replay_1(p_rows bigint[], p_trails bytea[]) RETURNS integer
LANGUAGE plpgsql $SETTINGS AS $$
DECLARE
    v_count integer;
BEGIN
    WITH risen AS (
        DELETE FROM $SCHEMA.dead AS d USING (
            SELECT tid, trail, i FROM unnest(p_rows, p_trails) WITH ORDINALITY AS o (n, trail, i), LATERAL (
                SELECT ctid AS tid FROM $SCHEMA.dead AS f WHERE f.n = o.n OFFSET 0
            ) AS f
        ) AS o
        WHERE d.ctid = tid RETURNING d.id, d.queue, d.envelope, d.priority, o.trail, o.i
    ), stored AS (
        INSERT INTO $SCHEMA.jobs (id, queue, priority, lane, pos, envelope, trail)
        SELECT id, queue, priority, 4 - priority, nextval('$SCHEMA.places') * 1024, envelope, trail
        FROM (SELECT * FROM risen ORDER BY i) AS r
        ON CONFLICT (id) DO NOTHING RETURNING id
    )
    SELECT count(*) INTO v_count FROM stored;
    RETURN v_count;
END $$;

-- Answers the time, how many jobs were put back, and which of the beats, counted from 1, are lost.
CREATE OR REPLACE FUNCTION $SCHEMA.heartbeat_1(
    p_worker text, p_host text, p_info bytea, p_lease double precision, p_ids text[], p_epochs bigint[],
    p_resume bigint, p_now timestamptz
) RETURNS TABLE (now double precision, returned integer, lost integer[]) LANGUAGE plpgsql $SETTINGS AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_worker bigint;
BEGIN
    UPDATE $SCHEMA.workers SET host = p_host, info = p_info, lease_end = v_now + p_lease * interval '1 second'
    WHERE id = p_worker RETURNING n INTO v_worker;
    IF v_worker IS NULL THEN
        INSERT INTO $SCHEMA.workers (id, host, info, lease_end)
        VALUES (p_worker, p_host, p_info, v_now + p_lease * interval '1 second')
        ON CONFLICT (id) DO UPDATE SET host = excluded.host, info = excluded.info, lease_end = excluded.lease_end
        RETURNING n INTO v_worker;
    END IF;

    IF p_resume > 0 THEN
        WITH forgotten AS MATERIALIZED (
            SELECT tid, nextval('$SCHEMA.places') * 1024 AS place FROM (
                SELECT ctid AS tid FROM $SCHEMA.jobs
                WHERE worker = v_worker AND epoch <= p_resume AND id <> ALL (p_ids)
                ORDER BY epoch DESC FOR UPDATE SKIP LOCKED
            ) AS c
        ), moved AS (
            UPDATE $SCHEMA.jobs AS j SET worker = NULL, epoch = NULL, pos = -place, lane = $SCHEMA.lane_1(priority, crashes)
            FROM forgotten WHERE j.ctid = tid RETURNING j.id
        )
        SELECT count(*) INTO returned FROM moved;
    END IF;

    SELECT array_agg(i) INTO lost FROM unnest(p_ids, p_epochs) WITH ORDINALITY AS o (id, epoch, i)
    WHERE NOT EXISTS (
        SELECT 1 FROM $SCHEMA.jobs AS j WHERE j.worker = v_worker AND j.epoch = o.epoch AND j.id = o.id OFFSET 0
    );
    IF lost IS NOT NULL THEN
        PERFORM $SCHEMA.take_back_1(array_agg(t.id), array_agg(t.epoch))
        FROM unnest(p_ids, p_epochs) WITH ORDINALITY AS t (id, epoch, i) WHERE i = ANY (lost);
    END IF;

    IF p_lease <= 0 AND NOT EXISTS (SELECT 1 FROM $SCHEMA.jobs WHERE worker = v_worker AND epoch IS NOT NULL) THEN
        DELETE FROM $SCHEMA.workers WHERE n = v_worker;
    END IF;
    now := extract(epoch FROM v_now);
    returned := coalesce(returned, 0);
    RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION $SCHEMA.sweep_1(
    p_host text, p_limit integer, p_dead text[], p_now timestamptz
) RETURNS TABLE (next_due double precision, promoted integer, reclaimed integer, more boolean, peers text[])
LANGUAGE plpgsql $SETTINGS AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_due timestamptz;
    v_worker record;
    v_count integer;
BEGIN
    promoted := 0;
    reclaimed := 0;
    more := false;
    SELECT due INTO v_due FROM $SCHEMA.jobs WHERE due IS NOT NULL ORDER BY due, pos LIMIT 1;
    IF v_due <= v_now THEN
        promoted := $SCHEMA.promote_1(p_limit, '-infinity', v_now);
    END IF;

    FOR v_worker IN
        SELECT n, id FROM $SCHEMA.workers WHERE lease_end <= v_now OR id = ANY (p_dead)
        ORDER BY n FOR UPDATE
    LOOP
        WITH held AS MATERIALIZED (
            SELECT tid, nextval('$SCHEMA.places') * 1024 AS place, notes FROM (
                SELECT ctid AS tid, coalesce(crashes, '[]') || jsonb_build_array(
                    jsonb_build_array(epoch, extract(epoch FROM v_now), v_worker.id)
                ) AS notes
                FROM $SCHEMA.jobs WHERE worker = v_worker.n AND epoch IS NOT NULL
                ORDER BY epoch DESC LIMIT p_limit - promoted - reclaimed FOR UPDATE SKIP LOCKED
            ) AS c
        ), moved AS (
            UPDATE $SCHEMA.jobs AS j SET
                worker = NULL, epoch = NULL, pos = -place, crashes = notes, lane = $SCHEMA.lane_1(priority, notes)
            FROM held WHERE j.ctid = tid RETURNING j.id
        )
        SELECT count(*) INTO v_count FROM moved;
        reclaimed := reclaimed + v_count;
        IF EXISTS (SELECT 1 FROM $SCHEMA.jobs WHERE worker = v_worker.n AND epoch IS NOT NULL) THEN
            more := true;
        ELSE
            DELETE FROM $SCHEMA.workers WHERE n = v_worker.n;
        END IF;
    END LOOP;

    DELETE FROM $SCHEMA.stamps WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM $SCHEMA.stamps WHERE at < v_now - interval '1 hour' LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));

    DELETE FROM $SCHEMA.done WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM $SCHEMA.done WHERE until <= v_now ORDER BY until LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    more := more OR v_count = p_limit;

    SELECT due INTO v_due FROM $SCHEMA.jobs WHERE due IS NOT NULL ORDER BY due, pos LIMIT 1;
    more := more OR coalesce(v_due <= v_now, false);
    next_due := extract(epoch FROM v_due - v_now);
    SELECT array_agg(id ORDER BY n) INTO peers FROM $SCHEMA.workers WHERE host = p_host AND lease_end > v_now;
    peers := coalesce(peers, '{}');
    RETURN NEXT;
END $$;
