-- The first schema: rooms with their logs and state, delivery, peers, local users.
--
-- The words beginning with a dollar sign are filled in by the engine: $INT a 64-bit integer, $BYTES a byte string, $NUMBERED
-- a primary key that the database numbers and never gives out twice, $KEY a primary key that the program numbers, $TABLE
-- and $CLUSTERED the endings of an ordinary table and of one that is kept in the order of its primary key.
--
-- Times are milliseconds since the epoch. Truth values are 0 and 1.

-- Rooms and their logs ------------------------------------------------------------------------------------------------

-- head_event_id is NULL, and head_position is one before first_position, while the current run has no event.
-- head_stream is the stream position of the last live event of any run, 0 when there is none.
CREATE TABLE rooms (
    room_nid $NUMBERED,
    room_id TEXT NOT NULL UNIQUE,
    room_version TEXT NOT NULL,
    first_position $INT NOT NULL,
    head_position $INT NOT NULL,
    head_event_id TEXT,
    head_stream $INT NOT NULL
) $TABLE;

-- The runs of a room's log. Positions low_position to end_position (NULL: still growing) are without gaps; joined says that
-- the event at low_position directly follows the event at the end_position of the run before.
CREATE TABLE room_runs (
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    first_position $INT NOT NULL,
    low_position $INT NOT NULL,
    end_position $INT,
    joined $INT NOT NULL,
    PRIMARY KEY (room_nid, first_position)
) $CLUSTERED;

-- position is NULL for an event that is only known as part of a state snapshot; stream for whatever was not live.
CREATE TABLE events (
    event_nid $KEY,
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    position $INT,
    stream $INT,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    origin_server_ts $INT NOT NULL,
    lpdu_hash TEXT,
    standing TEXT NOT NULL CHECK (standing IN ('accepted', 'soft_failed', 'rejected')),
    redacted_by TEXT,
    canonical $BYTES NOT NULL
) $TABLE;

CREATE UNIQUE INDEX events_event_id ON events (event_id);
CREATE UNIQUE INDEX events_position ON events (room_nid, position) WHERE position IS NOT NULL;
CREATE UNIQUE INDEX events_stream ON events (stream) WHERE stream IS NOT NULL;

-- Not unique: a foreign hub may put one LPDU into its room twice, and a participant must keep both.
CREATE INDEX events_lpdu ON events (room_nid, sender, lpdu_hash) WHERE lpdu_hash IS NOT NULL AND standing = 'accepted';

-- The positions at which each piece of state changed. A snapshot is a change of everything at its own position.
CREATE TABLE state_changes (
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position $INT NOT NULL,
    event_nid $INT NOT NULL REFERENCES events (event_nid),
    PRIMARY KEY (room_nid, type, state_key, position)
) $CLUSTERED;

-- One row for each (type, state_key) that the room ever had: this is also the directory of state_changes. event_nid is
-- NULL for what the current run does not have. position is that of the change; membership is NULL but for member events.
CREATE TABLE current_state (
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_nid $INT REFERENCES events (event_nid),
    position $INT NOT NULL,
    membership TEXT,
    PRIMARY KEY (room_nid, type, state_key)
) $CLUSTERED;

CREATE INDEX current_state_of_user ON current_state (state_key, room_nid) WHERE type = 'm.room.member';

CREATE TABLE evidence (
    evidence_nid $NUMBERED,
    room_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    event_id TEXT,
    event $BYTES NOT NULL,
    against $BYTES,
    reason TEXT NOT NULL,
    seen_ts $INT NOT NULL
) $TABLE;

CREATE INDEX evidence_of_room ON evidence (room_id, evidence_nid);

-- Delivery ------------------------------------------------------------------------------------------------------------

-- Positions (both ends inclusive, until_position NULL: open) at which a server is owed the room's log.
CREATE TABLE server_spans (
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    server TEXT NOT NULL,
    since_position $INT NOT NULL,
    until_position $INT,
    PRIMARY KEY (room_nid, server, since_position)
) $CLUSTERED;

CREATE UNIQUE INDEX server_spans_open ON server_spans (room_nid, server) WHERE until_position IS NULL;

CREATE TABLE delivery_cursors (
    destination TEXT NOT NULL,
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    position $INT NOT NULL,
    PRIMARY KEY (destination, room_nid)
) $CLUSTERED;

CREATE TABLE destinations (
    destination TEXT NOT NULL PRIMARY KEY,
    retry_at_ms $INT,
    failing_since_ms $INT,
    interval_ms $INT NOT NULL,
    last_success_ms $INT,
    path_form TEXT,
    bare_get_signature $INT NOT NULL
) $CLUSTERED;

CREATE TABLE edu_outbox (
    edu_nid $NUMBERED,
    destination TEXT NOT NULL,
    edu $BYTES NOT NULL
) $TABLE;

CREATE INDEX edu_outbox_of_destination ON edu_outbox (destination, edu_nid);

-- What waits for others -------------------------------------------------------------------------------------------------

CREATE TABLE pending_lpdus (
    pending_id $NUMBERED,
    room_id TEXT NOT NULL,
    room_version TEXT NOT NULL,
    hub_server TEXT NOT NULL,
    sender TEXT NOT NULL,
    lpdu_event_id TEXT NOT NULL UNIQUE,
    lpdu_hash TEXT NOT NULL,
    canonical $BYTES NOT NULL
) $TABLE;

CREATE INDEX pending_lpdus_of_hub ON pending_lpdus (hub_server, pending_id);
CREATE INDEX pending_lpdus_by_hash ON pending_lpdus (room_id, sender, lpdu_hash);

-- A row stays when its invite is over, so that a stream position is never given out again. ended_by is the membership event
-- that ended it (canonical JSON), NULL when the user joined.
CREATE TABLE invites (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    room_version TEXT NOT NULL,
    hub_server TEXT NOT NULL,
    stream $INT NOT NULL,
    pending $INT NOT NULL,
    canonical $BYTES NOT NULL,
    stripped_state $BYTES NOT NULL,
    ended_by $BYTES,
    PRIMARY KEY (user_id, room_id)
) $TABLE;

CREATE UNIQUE INDEX invites_stream ON invites (stream);

CREATE TABLE received_transactions (
    transaction_nid $NUMBERED,
    origin TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    status $INT NOT NULL,
    received_ts $INT NOT NULL,
    answer $BYTES NOT NULL,
    UNIQUE (origin, endpoint, transaction_id)
) $TABLE;

-- Keys of other servers -------------------------------------------------------------------------------------------------

CREATE TABLE server_keys (
    server_name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public TEXT NOT NULL,
    valid_until_ts $INT NOT NULL,
    expired_ts $INT,
    PRIMARY KEY (server_name, key_id)
) $CLUSTERED;

CREATE TABLE server_key_responses (
    server_name TEXT NOT NULL PRIMARY KEY,
    fetched_ts $INT NOT NULL,
    response $BYTES NOT NULL
) $TABLE;

-- Local users -----------------------------------------------------------------------------------------------------------

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT NOT NULL,
    created_ts $INT NOT NULL
) $CLUSTERED;

CREATE TABLE devices (
    user_id TEXT NOT NULL REFERENCES users (user_id),
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ts $INT NOT NULL,
    PRIMARY KEY (user_id, device_id)
) $CLUSTERED;

CREATE TABLE access_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_ts $INT NOT NULL,
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id)
) $CLUSTERED;

CREATE INDEX access_tokens_of_device ON access_tokens (user_id, device_id);

-- reference is the event's ID or, until the hub has answered, that of the pending LPDU.
CREATE TABLE client_transactions (
    transaction_nid $NUMBERED,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    created_ts $INT NOT NULL,
    UNIQUE (user_id, device_id, room_id, txn_id)
) $TABLE;

CREATE INDEX client_transactions_by_reference ON client_transactions (reference);

-- A user does not want to see a room any more, unless its membership changes again: event_id is that of the membership.
CREATE TABLE forgotten_rooms (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (user_id, room_id)
) $CLUSTERED;

CREATE TABLE filters (
    user_id TEXT NOT NULL,
    filter_id $INT NOT NULL,
    filter $BYTES NOT NULL,
    PRIMARY KEY (user_id, filter_id)
) $CLUSTERED;
