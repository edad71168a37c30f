-- +goose Up

-- The number of the last report of usage.
create table headgate_usage_feed (
    one      bigint primary key check (one = 1),
    revision bigint not null
);
insert into headgate_usage_feed (one, revision) values (1, 0);

-- How far each process has reported: a report that comes again changes nothing.
create table headgate_usage_reporter (
    id     text collate "C" primary key,
    report bigint not null,
    at     bigint not null
);

-- What was used in an hour, or in a day or month of which the hours are gone.
create table headgate_usage (
    application text collate "C" not null,
    subject     text collate "C" not null,
    period      bigint not null, -- when it begins
    span        bigint not null, -- 0 hour, 1 day, 2 month
    operation   text collate "C" not null,
    plan        text collate "C" not null,
    unit        text collate "C" not null,
    timezone    text collate "C" not null,
    anchor      bigint not null,
    day         bigint not null, -- its first day, in days since 1970-01-01
    month       bigint not null, -- the first day of its month
    allowed     bigint not null,
    denied      bigint not null,
    cost        bigint not null,
    overage     bigint not null,
    revision    bigint not null,
    primary key (application, subject, period, span, operation, plan, unit, timezone, anchor)
);
create index headgate_usage_age on headgate_usage (span, period);

-- What is to be told to webhooks.
create table headgate_event (
    id          text collate "C" primary key,
    at          bigint not null,
    until       bigint not null, -- until then nobody may be told of it again
    kind        text    not null,
    application text collate "C" not null,
    subject     text collate "C" not null,
    body        text    not null -- JSON
);
create index headgate_event_age on headgate_event (until);

create table headgate_delivery (
    event     text collate "C" not null,
    webhook   text collate "C" not null,
    attempts  bigint not null,
    next      bigint not null, -- when it is tried again; 0 when it is over
    delivered bigint not null,
    failure   text    not null, -- of the last attempt
    primary key (event, webhook)
);
create index headgate_delivery_next on headgate_delivery (next);

-- Who is there.
create table headgate_node (
    name    text collate "C" primary key,
    started bigint not null,
    seen    bigint not null,
    detail  text    not null -- JSON
);
