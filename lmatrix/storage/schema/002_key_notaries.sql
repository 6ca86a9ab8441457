-- Keys that are known on the word of a notary only, and the responses that a notary keeps.

-- NULL: known from the key's own server.
ALTER TABLE server_keys ADD COLUMN notary TEXT;

-- Earlier responses of a server with keys that its later ones do not have; 0 is the youngest.
CREATE TABLE server_key_past_responses (
    server_name TEXT NOT NULL,
    age $INT NOT NULL,
    fetched_ts $INT NOT NULL,
    response $BYTES NOT NULL,
    PRIMARY KEY (server_name, age)
) $TABLE;
