-- What a turn nearly always does, as one statement and so as one transaction: every further step would be another
-- moment in which the writer's thread has to get Python's lock back from a busy event loop.
-- One row for each queue, in order; the outcomes, {id: epoch} of jobs that have ended, are in the first row.
-- What it cannot do it refuses, and nothing has changed.

-- The first `most` ready jobs of a queue; they lie between the lanes `lane` and `last_lane`, and `first` and `last` in each.
-- Their places are also their epochs, above the last ticket. To number them would take an eighth of a turn's time, so only
-- those are numbered that lie far apart: some that came back to the front, and new ones.
CREATE TEMP VIEW IF NOT EXISTS claims (worker, queue, most, lane, last_lane, first, last)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER IF NOT EXISTS claim_near INSTEAD OF INSERT ON claims WHEN NEW.last - NEW.first < $WIDEST BEGIN
    UPDATE jobs SET worker = NEW.worker, epoch = (SELECT ticket FROM meta) + 1
        + (lane - NEW.lane) * (NEW.last - NEW.first + 1) + pos - NEW.first
    WHERE n IN (
        SELECT n FROM jobs INDEXED BY ready
        WHERE queue = NEW.queue AND lane < 5 AND due IS NULL AND epoch IS NULL
        ORDER BY lane, pos LIMIT NEW.most
    );
    UPDATE meta SET ticket = ticket + (NEW.last_lane - NEW.lane + 1) * (NEW.last - NEW.first + 1);
END;

CREATE TEMP TRIGGER IF NOT EXISTS claim_far INSTEAD OF INSERT ON claims WHEN NEW.last - NEW.first >= $WIDEST BEGIN
    UPDATE jobs SET worker = NEW.worker, epoch = (SELECT ticket FROM meta) + s.k FROM (
        SELECT n AS m, row_number() OVER (ORDER BY lane, pos) AS k FROM (
            SELECT n, lane, pos FROM jobs INDEXED BY ready
            WHERE queue = NEW.queue AND lane < 5 AND due IS NULL AND epoch IS NULL
            ORDER BY lane, pos LIMIT NEW.most
        )
    ) AS s WHERE n = s.m;
    UPDATE meta SET ticket = ticket + NEW.most;
END;

CREATE TEMP VIEW IF NOT EXISTS turns (worker, outcomes, settled, queue, most, suspects, resume, now)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TEMP TRIGGER IF NOT EXISTS take_turn INSTEAD OF INSERT ON turns BEGIN
    DELETE FROM jobs WHERE n IN (
        SELECT j.n FROM json_each(NEW.outcomes) AS v
        CROSS JOIN jobs AS j INDEXED BY held ON j.epoch = v.value AND j.id = v.key
            AND j.worker = (SELECT n FROM workers WHERE id = NEW.worker)
    );
    SELECT RAISE(ABORT, 'not a plain turn')
    WHERE changes() <> NEW.settled
        OR NOT EXISTS (SELECT 1 FROM workers WHERE id = NEW.worker AND lease_end > NEW.now);

    UPDATE meta SET ticket = NEW.resume WHERE ticket < NEW.resume;

    UPDATE jobs SET due = NULL, pos = -((SELECT ticket FROM meta) + s.k), lane = $NEW_LANE FROM (
        SELECT n AS m, row_number() OVER (ORDER BY due DESC, pos DESC) AS k FROM (
            SELECT n, due, pos FROM jobs INDEXED BY scheduled WHERE due <= NEW.now ORDER BY due, pos LIMIT $PROMOTE
        )
    ) AS s WHERE n = s.m;
    UPDATE meta SET ticket = ticket + changes() WHERE changes() > 0;

    SELECT RAISE(ABORT, 'not a plain turn')
    WHERE NEW.suspects AND EXISTS (
        SELECT 1 FROM jobs INDEXED BY ready WHERE queue = NEW.queue AND lane = 5 AND due IS NULL AND epoch IS NULL
    );

    INSERT INTO claims
    SELECT (SELECT n FROM workers WHERE id = NEW.worker), NEW.queue, count(*), min(lane), max(lane), min(pos), max(pos)
    FROM (
        SELECT lane, pos FROM jobs INDEXED BY ready
        WHERE queue = NEW.queue AND lane < 5 AND due IS NULL AND epoch IS NULL
        ORDER BY lane, pos
        LIMIT max(0, NEW.most - (
            SELECT count(*) FROM jobs INDEXED BY held
            WHERE worker = (SELECT n FROM workers WHERE id = NEW.worker) AND epoch > NEW.resume
        ))
    ) HAVING count(*) > 0;
END;
