-- Local users' profiles. changes counts how often a profile was changed, announced up to which change the rooms were told.
CREATE TABLE profiles (
    user_id TEXT NOT NULL PRIMARY KEY,
    displayname TEXT,
    avatar_url TEXT,
    changes $INT NOT NULL,
    announced $INT NOT NULL
) $TABLE;

CREATE INDEX profiles_unannounced ON profiles (user_id) WHERE announced < changes;

-- The room aliases of this server.
CREATE TABLE room_aliases (
    alias TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ts $INT NOT NULL
) $CLUSTERED;

CREATE INDEX room_aliases_of_room ON room_aliases (room_id, alias);
CREATE INDEX room_aliases_by_creator ON room_aliases (creator);
