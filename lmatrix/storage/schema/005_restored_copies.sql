-- Databases that are older copies: what they have to catch up with before their rooms go on.

-- One row: this database is a copy that no server has started from yet, made at that time.
CREATE TABLE copied (
    only_row $INT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    copied_ts $INT NOT NULL
) $CLUSTERED;

-- Rooms of which this server does not know yet whether others hold more.
CREATE TABLE held_rooms (
    room_id TEXT NOT NULL PRIMARY KEY,
    held_since_ts $INT NOT NULL,
    reason TEXT NOT NULL
) $CLUSTERED;

-- A piece of evidence is looked up by its event before it is kept: the same comes more than once.
CREATE INDEX evidence_of_event ON evidence (room_id, event_id);
