-- +goose Up

-- The number of the last write, and of the last one whose traces were swept.
create table headgate_feed (
    one   bigint  primary key check (one = 1),
    seq   bigint  not null,
    swept bigint  not null
);
insert into headgate_feed (one, seq, swept) values (1, 0, 0);

-- Instants are µs since the Unix epoch, 0 for none.
create table headgate_policy (
    revision bigint  primary key,
    at       bigint  not null,
    author   text    not null,
    via      text    not null,
    note     text    not null,
    document text    not null,
    seq      bigint  not null
);

-- A row that is neither known nor banned was deleted.
create table headgate_subject (
    application text collate "C" not null,
    name        text collate "C" not null,
    known       boolean not null,
    plan        text    not null,
    timezone    text    not null,
    anchor      bigint  not null,
    note        text    not null,
    overrides   text    not null, -- JSON
    banned      bigint  not null, -- until when
    ban_reason  text    not null,
    changed     bigint  not null,
    author      text    not null,
    seq         bigint  not null,
    primary key (application, name)
);
create index headgate_subject_seq on headgate_subject (seq, application, name);

create table headgate_token (
    id           text collate "C" primary key,
    digest       text    not null unique, -- SHA-256, hexadecimal
    name         text collate "C" not null,
    scopes       text    not null, -- by spaces
    applications text    not null, -- by spaces; * for all
    created      bigint  not null,
    author       text    not null,
    expires      bigint  not null,
    revoked      bigint  not null,
    seq          bigint  not null
);
create index headgate_token_seq on headgate_token (seq, id);

create table headgate_mode (
    application text collate "C" not null,
    rule        text collate "C" not null,
    shadow      boolean not null,
    until       bigint  not null,
    author      text    not null,
    seq         bigint  not null,
    primary key (application, rule)
);

create table headgate_audit (
    id          bigint  primary key, -- the number of the write, or of one that was refused
    at          bigint  not null,
    actor       text    not null,
    via         text    not null,
    address     text    not null,
    action      text    not null,
    application text collate "C" not null,
    subject     text collate "C" not null,
    target      text    not null,
    refused     text    not null,
    detail      text    not null -- JSON
);
create index headgate_audit_subject on headgate_audit (application, subject, id);
