-- +goose Up

-- So that lists of a plan, or of those who are banned, read no others.
create index headgate_subject_plan on headgate_subject (plan, application, name, known) where known; -- with known, counts read nothing else
create index headgate_subject_banned on headgate_subject (application, name) where banned <> 0;

-- SQLite takes these indexes only if it knows how the rows are spread: it guesses that an
-- application has ten subjects. These are figures of a large house.
analyze sqlite_schema;
insert into sqlite_stat1 (tbl, idx, stat) values
    ('headgate_subject', 'headgate_subject', '1000000 200000 1'),
    ('headgate_subject', 'headgate_subject_seq', '1000000 1 1 1'),
    ('headgate_subject', 'headgate_subject_plan', '1000000 50000 10000 1 1'),
    ('headgate_subject', 'headgate_subject_banned', '1000 200 1');
