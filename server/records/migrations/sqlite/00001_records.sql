-- +goose Up

-- The number of the last write, and of the last one whose traces were swept.
create table headgate_feed (
    one   integer primary key check (one = 1),
    seq   integer not null,
    swept integer not null
);
insert into headgate_feed (one, seq, swept) values (1, 0, 0);

-- Instants are µs since the Unix epoch, 0 for none.
create table headgate_policy (
    revision integer primary key,
    at       integer not null,
    author   text    not null,
    via      text    not null,
    note     text    not null,
    document text    not null,
    seq      integer not null
);

-- A row that is neither known nor banned was deleted.
create table headgate_subject (
    application text    not null,
    name        text    not null,
    known       boolean not null,
    plan        text    not null,
    timezone    text    not null,
    anchor      integer not null,
    note        text    not null,
    overrides   text    not null, -- JSON
    banned      integer not null, -- until when
    ban_reason  text    not null,
    changed     integer not null,
    author      text    not null,
    seq         integer not null,
    primary key (application, name)
) without rowid;
create index headgate_subject_seq on headgate_subject (seq, application, name);

create table headgate_token (
    id           text    primary key,
    digest       text    not null unique, -- SHA-256, hexadecimal
    name         text    not null,
    scopes       text    not null, -- by spaces
    applications text    not null, -- by spaces; * for all
    created      integer not null,
    author       text    not null,
    expires      integer not null,
    revoked      integer not null,
    seq          integer not null
) without rowid;
create index headgate_token_seq on headgate_token (seq, id);

create table headgate_mode (
    application text    not null,
    rule        text    not null,
    shadow      boolean not null,
    until       integer not null,
    author      text    not null,
    seq         integer not null,
    primary key (application, rule)
) without rowid;

create table headgate_audit (
    id          integer primary key, -- the number of the write, or of one that was refused
    at          integer not null,
    actor       text    not null,
    via         text    not null,
    address     text    not null,
    action      text    not null,
    application text    not null,
    subject     text    not null,
    target      text    not null,
    refused     text    not null,
    detail      text    not null -- JSON
);
create index headgate_audit_subject on headgate_audit (application, subject, id);
