-- Mirrors: linearized rooms paired with rooms of a DAG-capable server (lmatrix.replication).
--
-- See 001_initial.sql for the words beginning with a dollar sign.

-- How far the DAG server's stream has been read.
CREATE TABLE mirror_stream (
    only_row $INT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position $INT NOT NULL
) $CLUSTERED;

-- outward_position is the last position of the linearized room's log that was carried over. baseline is the stream position
-- up to which state was carried over all at once. next_place and horizon are the linearizer's.
CREATE TABLE mirrors (
    mirror_nid $NUMBERED,
    lm_room_id TEXT NOT NULL UNIQUE,
    dag_room_id TEXT NOT NULL UNIQUE,
    stage TEXT NOT NULL CHECK (stage IN ('invited', 'opening', 'open', 'stopped')),
    reason TEXT,
    outward_position $INT NOT NULL,
    baseline $INT NOT NULL,
    next_place $INT NOT NULL,
    horizon $INT NOT NULL
) $TABLE;

-- Events of the DAG room that the stream has shown, and those that were written there. place is that in the linearizer's
-- list, NULL for what was written from the other side. waiting is 1 until the other side has it or it is settled otherwise.
CREATE TABLE mirror_dag_events (
    mirror_nid $INT NOT NULL REFERENCES mirrors (mirror_nid),
    event_id TEXT NOT NULL,
    stream $INT NOT NULL,
    depth $INT NOT NULL,
    place $INT,
    waiting $INT NOT NULL,
    refused $INT NOT NULL,
    arrived_ts $INT NOT NULL,
    PRIMARY KEY (mirror_nid, event_id)
) $CLUSTERED;

CREATE INDEX mirror_dag_events_waiting ON mirror_dag_events (mirror_nid, place) WHERE waiting = 1;

-- Which events are the same on both sides. An event may have several counterparts: a correction is one more.
CREATE TABLE mirror_links (
    link_nid $NUMBERED,
    mirror_nid $INT NOT NULL REFERENCES mirrors (mirror_nid),
    lm_event_id TEXT NOT NULL,
    dag_event_id TEXT NOT NULL,
    UNIQUE (mirror_nid, lm_event_id, dag_event_id)
) $TABLE;

CREATE INDEX mirror_links_of_dag ON mirror_links (mirror_nid, dag_event_id);

-- Events that could not be carried over, from either side, and why.
CREATE TABLE mirror_losses (
    mirror_nid $INT NOT NULL REFERENCES mirrors (mirror_nid),
    event_id TEXT NOT NULL,
    cause TEXT NOT NULL,
    PRIMARY KEY (mirror_nid, event_id)
) $CLUSTERED;

-- Ghosts whose user IDs do not spell out whom they stand for.
CREATE TABLE mirror_names (
    ghost TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL
) $CLUSTERED;

CREATE INDEX invites_pending ON invites (stream) WHERE pending = 1;
