-- +goose Up

-- The incarnation of the state, one row. Where the server shows another timeline,
-- system, database or table than this row, or the row was not written by the
-- transaction that it names, because it comes from a dump, writes may be lacking.
create table headgate_epoch (
    one      boolean primary key default true check (one),
    seq      bigint not null check (seq between 1 and 2097151), -- keeps id below 2^53
    id       bigint not null, -- begins with seq: divided by 2^32
    since    bigint not null, -- µs since the Unix epoch
    timeline bigint not null,
    system   bigint not null,
    base     oid    not null, -- the database
    items    oid    not null, -- headgate_item
    written  xid    not null  -- by which transaction; 0 for one that is over
);

-- When the server was started that wrote the newest epoch, where it may lose commits
-- in a crash. A crash empties the table, also one that the server survives.
create unlogged table headgate_life (started timestamptz not null);

-- The state of one owner a row. Only the key has an index, and pages are left half
-- empty, so that updates stay within their pages.
create table headgate_item (
    k       uuid   primary key, -- a hash
    version bigint not null,    -- of the write that made the row, never 0
    expires bigint not null,    -- µs since the Unix epoch
    value   bytea  not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.2);
alter table headgate_item alter column value set storage main;

-- Rows that are all gone are lost writes.
--
-- +goose StatementBegin
create function headgate_truncated() returns trigger language plpgsql as $$
begin
    execute format('update %I.headgate_epoch set written = ''0''', tg_table_schema);
    return null;
end
$$;
-- +goose StatementEnd
create trigger headgate_truncated before truncate on headgate_item execute function headgate_truncated();

-- The nodes that share the store.
create table headgate_node (
    node  uuid   primary key,
    until bigint not null -- µs since the Unix epoch
);

-- When somebody last looked for rows to delete.
create table headgate_sweep (
    one boolean primary key default true check (one),
    at  bigint not null -- µs since the Unix epoch
);
insert into headgate_sweep (at) values (0);

-- +goose StatementBegin
create function headgate_now() returns bigint language sql volatile as $$
    select (extract(epoch from clock_timestamp()) * 1000000)::bigint
$$;
-- +goose StatementEnd

-- headgate_connect finds the epoch. Who knows a newer one than the server, or another
-- one with the same number, was at another server. lease_life is how long leases of
-- an earlier epoch may still be spent, in µs.
--
-- +goose StatementBegin
create function headgate_connect(
    known_seq bigint, known_id bigint, known_since bigint, lenient boolean, lease_life bigint,
    out seq bigint, out id bigint, out since bigint, out changed boolean, out lossy boolean
) language plpgsql as $$
declare
    line   bigint      := ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint;
    sys    bigint      := (select c.system_identifier from pg_control_system() c);
    born   timestamptz := pg_postmaster_start_time();
    db     oid         := (select d.oid from pg_database d where d.datname = current_database());
    e      record;
begin
    lossy := current_setting('synchronous_commit') = 'off' or current_setting('fsync') = 'off';
    for pass in 1..2 loop
        if pass = 2 then
            lock table headgate_epoch in exclusive mode;
        end if;
        select x.*, x.written = x.xmin and x.items = 'headgate_item'::regclass as whole into e from headgate_epoch x;
        if e.whole and e.timeline = line and e.system = sys and e.base = db
            and (e.seq > known_seq or e.seq = known_seq and e.id = known_id)
            and (not lossy or exists (select from headgate_life l where l.started = born))
        then
            seq := e.seq; id := e.id; since := e.since; changed := false;
            return;
        end if;
    end loop;
    changed := true;
    perform set_config('synchronous_commit', 'on', true); -- the epoch must outlive a crash
    if e.seq is null and known_seq = 0 then
        seq := 1; since := 0;
    elsif lenient and known_seq > coalesce(e.seq, 0) then
        seq := known_seq; since := known_since; id := known_id;
    elsif lenient then
        seq := e.seq; since := e.since; id := e.id;
    else
        seq := greatest(coalesce(e.seq, 0), known_seq) + 1;
        since := headgate_now() + lease_life;
    end if;
    id := coalesce(id, seq * 4294967296 + floor(random() * 4294967296)::bigint);
    delete from headgate_epoch;
    insert into headgate_epoch (seq, id, since, timeline, system, base, items, written)
    values (seq, id, since, line, sys, db, 'headgate_item'::regclass, pg_current_xact_id()::xid);
    if lossy then
        delete from headgate_life;
        insert into headgate_life values (born);
    end if;
end
$$;
-- +goose StatementEnd

-- headgate_swap makes each change of which all items have their old versions, 0 for
-- none. The arrays say of each item the number of its change, whether that writes
-- anything, the key, the versions, and the new value, which is empty to delete; a
-- new version of 0 only compares. No key is in two items.
--
-- A key that is any of an array of one is looked up by the index: what is planned while
-- the table is empty would else go through all of it, also when it has grown.
--
-- It answers the clock, the epoch's since and, of each item of the changes that were not
-- made, its place and what there is. HG001 is another epoch, HG002 that somebody else has just
-- inserted the same row; nothing has changed then.
--
-- +goose StatementBegin
create function headgate_swap(
    epoch bigint, changes int[], writes boolean[], keys uuid[], olds bigint[], news bigint[], vals bytea[], ends bigint[],
    out clock bigint, out since bigint, out places bigint[], out versions bigint[], out expiries bigint[], out present bytea[]
) language plpgsql as $$
declare
    same  bigint[]; -- places of the items that have their versions
    other int[];    -- changes of which an item has another one
    bad   int[];    -- changes that are not made
    n     bigint;
    rows  bigint;
begin
    select e.since into since from headgate_epoch e
    where e.id = epoch and e.written = e.xmin and e.items = 'headgate_item'::regclass;
    if not found then
        raise exception using errcode = 'HG001', message = 'another epoch';
    end if;
    -- What is to be written is locked in the order of the keys. What is only looked at
    -- is not: that costs no commit.
    if true = any (writes) then
        select array_agg(l.place) filter (where l.version = l.old), array_agg(l.change) filter (where l.version <> l.old)
        into same, other
        from (
            select g.place, g.change, g.old, i.version
            from unnest(changes, writes, keys, olds) with ordinality g(change, writes, k, old, place)
            join headgate_item i on i.k = any (array[g.k])
            where g.writes
            order by i.k
            for update of i
        ) l;
    end if;
    clock := headgate_now();
    select array_agg(distinct g.change)
    into bad
    from unnest(changes, writes, keys, olds) with ordinality g(change, writes, k, old, place)
    where case
        when g.writes then g.change = any (other) or g.old <> 0 and g.place <> all (coalesce(same, '{}'))
        else g.old <> coalesce((select i.version from headgate_item i where i.k = g.k), 0)
    end;
    bad := coalesce(bad, '{}');

    update headgate_item i
    set version = g.new, expires = g.ends, value = g.value
    from unnest(changes, writes, keys, olds, news, vals, ends) g(change, writes, k, old, new, value, ends)
    where i.k = any (array[g.k]) and g.writes and g.old <> 0 and g.new <> 0 and g.value <> '' and g.change <> all (bad);

    if 0 = any (olds) then
        -- Rows that must not be there are inserted as well, and deleted below: nobody
        -- else can insert them meanwhile.
        select count(*)
        into n
        from unnest(changes, writes, olds) g(change, writes, old)
        where g.writes and g.old = 0 and g.change <> all (bad);
        if n > 0 then
            insert into headgate_item (k, version, expires, value)
            select g.k, g.new, g.ends, g.value
            from unnest(changes, writes, keys, olds, news, vals, ends) g(change, writes, k, old, new, value, ends)
            where g.writes and g.old = 0 and g.change <> all (bad)
            order by g.k
            on conflict do nothing;
            get diagnostics rows = row_count;
            if rows <> n then
                raise exception using errcode = 'HG002', message = 'somebody else has inserted the same row';
            end if;
        end if;
    end if;
    if '' = any (vals) then
        delete from headgate_item i
        using unnest(changes, writes, keys, olds, news, vals) g(change, writes, k, old, new, value)
        where i.k = any (array[g.k]) and g.writes and g.value = '' and (g.old = 0 or g.new <> 0) and g.change <> all (bad);
    end if;

    if bad <> '{}' then
        select array_agg(g.place), array_agg(coalesce(i.version, 0)), array_agg(coalesce(i.expires, 0)), array_agg(coalesce(i.value, ''))
        into places, versions, expiries, present
        from unnest(changes, keys) with ordinality g(change, k, place)
        left join headgate_item i on i.k = any (array[g.k])
        where g.change = any (bad);
    end if;
end
$$;
-- +goose StatementEnd

-- headgate_nodes notes that a node lives for another ttl µs, 0 for gone, and answers
-- how many do. Who would live longer than most µs has said so before the clock was
-- set back, and says it again if it still lives.
--
-- +goose StatementBegin
create function headgate_nodes(the_node uuid, ttl bigint, most bigint) returns bigint language plpgsql as $$
declare
    moment bigint := headgate_now();
begin
    if ttl > 0 then
        insert into headgate_node as n (node, until) values (the_node, moment + ttl)
        on conflict (node) do update
        set until = case when n.until > moment + most then excluded.until else greatest(n.until, excluded.until) end;
    end if;
    delete from headgate_node where node in (
        select n.node from headgate_node n
        where n.until <= moment or n.until > moment + most or ttl = 0 and n.node = the_node
        for update skip locked
    );
    return (select count(*) from headgate_node n where n.until > moment and n.until <= moment + most and (ttl > 0 or n.node <> the_node));
end
$$;
-- +goose StatementEnd

-- headgate_expire deletes the rows of some pages that have been over for grace µs, but
-- those that somebody has locked.
--
-- +goose StatementBegin
create function headgate_expire(first bigint, pages bigint, grace bigint) returns bigint language plpgsql as $$
declare
    past bigint := headgate_now() - grace;
    n    bigint;
begin
    delete from headgate_item where expires < past and k in (
        select i.k from headgate_item i
        where i.ctid >= format('(%s,0)', first)::tid and i.ctid < format('(%s,0)', first + pages)::tid and i.expires < past
        for update skip locked
    );
    get diagnostics n = row_count;
    return n;
end
$$;
-- +goose StatementEnd

-- +goose Down
drop function headgate_expire, headgate_nodes, headgate_swap, headgate_connect, headgate_now;
drop table headgate_sweep, headgate_node, headgate_item, headgate_life, headgate_epoch;
drop function headgate_truncated;
