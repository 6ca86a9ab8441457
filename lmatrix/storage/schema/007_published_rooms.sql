-- The rooms that this server shows to everybody.
CREATE TABLE published_rooms (
    room_id TEXT NOT NULL PRIMARY KEY
) $CLUSTERED;
