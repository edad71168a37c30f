-- +goose Up

-- The number of the last report of usage.
create table headgate_usage_feed (
    one      integer primary key check (one = 1),
    revision integer not null
);
insert into headgate_usage_feed (one, revision) values (1, 0);

-- How far each process has reported: a report that comes again changes nothing.
create table headgate_usage_reporter (
    id     text    primary key,
    report integer not null,
    at     integer not null
) without rowid;

-- What was used in an hour, or in a day or month of which the hours are gone.
create table headgate_usage (
    application text    not null,
    subject     text    not null,
    period      integer not null, -- when it begins
    span        integer not null, -- 0 hour, 1 day, 2 month
    operation   text    not null,
    plan        text    not null,
    unit        text    not null,
    timezone    text    not null,
    anchor      integer not null,
    day         integer not null, -- its first day, in days since 1970-01-01
    month       integer not null, -- the first day of its month
    allowed     integer not null,
    denied      integer not null,
    cost        integer not null,
    overage     integer not null,
    revision    integer not null,
    primary key (application, subject, period, span, operation, plan, unit, timezone, anchor)
) without rowid;
create index headgate_usage_age on headgate_usage (span, period);

-- What is to be told to webhooks.
create table headgate_event (
    id          text    primary key,
    at          integer not null,
    until       integer not null, -- until then nobody may be told of it again
    kind        text    not null,
    application text    not null,
    subject     text    not null,
    body        text    not null -- JSON
) without rowid;
create index headgate_event_age on headgate_event (until);

create table headgate_delivery (
    event     text    not null,
    webhook   text    not null,
    attempts  integer not null,
    next      integer not null, -- when it is tried again; 0 when it is over
    delivered integer not null,
    failure   text    not null, -- of the last attempt
    primary key (event, webhook)
) without rowid;
create index headgate_delivery_next on headgate_delivery (next);

-- Who is there.
create table headgate_node (
    name    text    primary key,
    started integer not null,
    seen    integer not null,
    detail  text    not null -- JSON
) without rowid;
