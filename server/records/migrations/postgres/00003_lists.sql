-- +goose Up

-- So that lists of a plan, or of those who are banned, read no others.
create index headgate_subject_plan on headgate_subject (plan, application, name) where known;
create index headgate_subject_banned on headgate_subject (application, name) where banned <> 0;
