-- +goose Up

-- What the store knows of itself, one row.
create table meta (
    one      integer primary key check (one = 1),
    secret   blob    not null, -- 32 random bytes: keys are hashed under them
    place    blob    not null, -- 16 random bytes of the newest start or stop in order, which the file place has as well
    previous blob    not null, -- those before
    inode    integer not null, -- of this file, at the newest start
    began    integer not null, -- when the newest process began, µs since the Unix epoch
    earlier  integer not null, -- from when on processes had begun that the newest may have to reckon with
    latest   integer not null, -- the latest instant that the store has seen, µs since the Unix epoch
    stopped  integer not null, -- 0 no, 1 in order, 2 not, with nothing in the write-ahead log
    lost     integer not null, -- from before when charges may be missing, 0 for none
    backup   integer not null, -- when this copy was made, 0 for none
    restored integer not null, -- 1 where charges after the backup are not known
    crc      integer not null  -- CRC-32C
);

-- Numbers of limits, which states are kept under. An id is never used again.
create table numbers (
    id   integer primary key autoincrement,
    text blob    not null,
    crc  integer not null
);

-- The limits that were used, and under which numbers.
create table limits (
    id      blob    not null, -- 16 bytes
    numbers integer not null,
    since   integer not null, -- µs since the Unix epoch
    durable integer not null, -- 1 where states are here while the process lives
    crc     integer not null,
    primary key (id, numbers)
) without rowid;

-- The state of one limit for one owner a row.
create table state (
    key     blob    primary key, -- 12 bytes of a hash
    until   integer not null,    -- from then on the row says nothing, µs since the Unix epoch
    numbers integer not null,
    value   blob    not null
) without rowid;

-- The same for bans, all of which are read at a start.
create table bans (
    key     blob    primary key,
    until   integer not null,
    numbers integer not null,
    value   blob    not null
) without rowid;
create index bans_until on bans (until);

-- +goose Down
drop table bans;
drop table state;
drop table limits;
drop table numbers;
drop table meta;
