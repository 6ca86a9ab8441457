-- Devices, their keys, messages to them; receipts. What of it /sync tells has a place in the one stream.

-- The last stream position that was given to anything but an event or an invite. Such things are replaced and removed, and a
-- position must not be given out again for that.
CREATE TABLE side_stream (
    only_row $INT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position $INT NOT NULL
) $CLUSTERED;

INSERT INTO side_stream (only_row, position) VALUES (1, 0);

-- What devices say of themselves, as they signed it: of local users, and of users of other servers as far as it is known.
CREATE TABLE device_objects (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    canonical $BYTES NOT NULL,
    PRIMARY KEY (user_id, device_id)
) $TABLE;

-- The device lists of users of other servers that were fetched whole, and the stream position when they were asked for. They
-- have been kept up to date since by their servers, as long as there was a room in common.
CREATE TABLE fetched_device_lists (
    user_id TEXT NOT NULL PRIMARY KEY,
    stream $INT NOT NULL,
    fetched_ts $INT NOT NULL
) $CLUSTERED;

-- When a user's device list changed last.
CREATE TABLE device_list_changes (
    user_id TEXT NOT NULL PRIMARY KEY,
    stream $INT NOT NULL
) $CLUSTERED;

CREATE UNIQUE INDEX device_list_changes_stream ON device_list_changes (stream);

-- One-time keys. value is NULL for one that was handed out: it is remembered, so that it is never taken for a new one.
CREATE TABLE one_time_keys (
    key_nid $NUMBERED,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    value $BYTES,
    expires_ts $INT,
    UNIQUE (user_id, device_id, algorithm, version)
) $TABLE;

CREATE UNIQUE INDEX one_time_keys_digest ON one_time_keys (user_id, device_id, digest);
CREATE INDEX one_time_keys_left ON one_time_keys (user_id, device_id, algorithm, key_nid) WHERE value IS NOT NULL;
CREATE INDEX one_time_keys_expiry ON one_time_keys (expires_ts) WHERE expires_ts IS NOT NULL;

CREATE TABLE last_resort_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    value $BYTES NOT NULL,
    expires_ts $INT,
    used $INT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
) $TABLE;

-- When keys of a device were last handed out.
CREATE TABLE key_claims (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    stream $INT NOT NULL,
    PRIMARY KEY (user_id, device_id)
) $CLUSTERED;

-- Messages that wait for their device to acknowledge them.
CREATE TABLE to_device_messages (
    stream $KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    origin TEXT NOT NULL,
    message $BYTES NOT NULL
) $TABLE;

CREATE INDEX to_device_messages_of_device ON to_device_messages (user_id, device_id, stream);
CREATE INDEX to_device_messages_by_origin ON to_device_messages (user_id, device_id, origin);

-- Messages that came from other servers, by what they are recognised when they come again.
CREATE TABLE received_messages (
    message_nid $NUMBERED,
    origin TEXT NOT NULL,
    digest TEXT NOT NULL,
    received_ts $INT NOT NULL,
    UNIQUE (origin, digest)
) $TABLE;

-- Requests of local devices to send messages, so that none is carried out twice.
CREATE TABLE sent_to_device (
    request_nid $NUMBERED,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    request TEXT NOT NULL,
    created_ts $INT NOT NULL,
    UNIQUE (user_id, device_id, request)
) $TABLE;

-- thread_id is empty for a receipt that counts for the whole room.
CREATE TABLE receipts (
    room_nid $INT NOT NULL REFERENCES rooms (room_nid),
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    ts $INT NOT NULL,
    stream $INT NOT NULL,
    PRIMARY KEY (room_nid, user_id, kind, thread_id)
) $CLUSTERED;

CREATE INDEX receipts_stream ON receipts (room_nid, stream);

-- What a user keeps about a room: how far it was read.
CREATE TABLE room_account_data (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    content $BYTES NOT NULL,
    stream $INT NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
) $TABLE;

CREATE INDEX room_account_data_stream ON room_account_data (user_id, stream);

-- An EDU that says how something stands takes the place of the one that waits under the same subject.
ALTER TABLE edu_outbox ADD COLUMN subject TEXT;

CREATE UNIQUE INDEX edu_outbox_subject ON edu_outbox (destination, subject) WHERE subject IS NOT NULL;
