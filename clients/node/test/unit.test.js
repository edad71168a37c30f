// The parts that need no server.
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {ipKeyGenerator} from 'headgate'
import {Breaker} from '../lib/breaker.js'
import {Bucket, setFields, setOlder, tightest} from '../lib/fields.js'
import {settings} from '../lib/redis.js'
import {Waiting} from '../lib/waiting.js'

test('the breaker, step by step', () => {
  const b = new Breaker({failures: 3, cooldown: 500})
  const steps = [
    // at, what happens, whether a call may be made, the state after it
    [0, 'failed', true, 'closed'],
    [1, 'failed', true, 'closed'],
    [2, 'succeeded', true, 'closed'],
    [3, 'failed', true, 'closed'],
    [4, 'failed', true, 'closed'],
    [5, 'failed', false, 'open'],
    [6, 'failed', false, 'open'], // one that was made before it opened
    [504, 'probe', false, 'open'],
    [505, 'probe', true, 'half_open'],
    [506, 'probe', false, 'half_open'], // one at a time
    [600, 'probe failed', false, 'open'],
    [1099, 'probe', false, 'open'],
    [1100, 'probe', true, 'half_open'],
    [1101, 'probe failed', false, 'open'],
    [1102, 'reachable', false, 'open'],
    [1103, 'probe', true, 'half_open'],
    [1104, 'succeeded', true, 'closed'],
    [1105, 'failed', true, 'closed']
  ]
  for (const [at, what, may, state] of steps) {
    let answer
    if (what === 'probe') answer = b.probe(at)
    else if (what === 'succeeded') b.succeeded()
    else if (what === 'reachable') b.reachable()
    else b.failed(at, what === 'probe failed')
    assert.deepEqual([answer ?? !b.isOpen, b.state], [may, state], `at ${at}`)
  }
})

test('what addresses are counted by', () => {
  for (const [address, key, subnet] of [
    ['192.0.2.1', '192.0.2.1'],
    ['192.0.2.1:80', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['[::ffff:192.0.2.1]:80', '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:DB8:1:2::6', '2001:db8:1:2::/64'],
    ['[2001:db8:1:2::6]:443', '2001:db8:1:2::/64'],
    ['2001:db8::', '2001:db8::/64'],
    ['2001:db8:0:1::', '2001:db8:0:1::/64'],
    ['fe80::1%eth0', 'fe80::/64'],
    ['::1', '::/64'],
    ['::', '::/64'],
    ['::192.0.2.1', '::/64'],
    ['2001:db8:ffff:ffff::', '2001:db8:ffff:ff80::/57', 57],
    ['2001:db8:ffff:ffff::', '2001:db8:ff00::/40', 40],
    ['2001:db8:ffff:ffff::', '2001:db8::/32', 32],
    ['2001:db8::5', '2001:db8:0:0:0:0:0:5', false],
    ['unknown', undefined],
    ['', undefined],
    ['192.0.2.256', undefined],
    ['192.0.2.1:x', undefined],
    ['1:2:3:4:5:6:7:8:9', undefined],
    ['evil\r\nX: y', undefined]
  ]) {
    assert.equal(ipKeyGenerator(address, subnet), key, address)
  }
})

test('of several limits the older fields tell of the tightest', () => {
  const limit = (id, more) => ({id, algorithm: 'token_bucket', owner: 'subject', unit: 'requests', allowed: true, limit: 9, used: 0, remaining: 9, overage: 0, retryAfterMs: 0, resetMs: 1500, mode: 'enforce', ...more})
  const refused = {allowed: false, remaining: 3}
  const limits = [
    limit('roomy'),
    limit('tight', {remaining: 2}),
    limit('short', {...refused, retryAfterMs: 1001}),
    limit('never', {...refused, retryAfterMs: null}),
    limit('long', {...refused, retryAfterMs: 60_000}),
    limit('shared', {owner: 'application', remaining: 0}),
    limit('shadow', {mode: 'shadow', remaining: 0}),
    limit('r/ban', {algorithm: 'ban', remaining: 0}),
    limit('soft', {overage: 5, remaining: 0})
  ]
  for (const [n, fields] of [
    [5, {limit: 9, remaining: 3, reset: 2}], // never passes
    [3, {limit: 9, remaining: 0, reset: 2}],
    [2, {limit: 9, remaining: 2, reset: 2}],
    [1, {limit: 9, remaining: 9, reset: 2}]
  ]) {
    const told = limits.slice(0, n === 5 ? undefined : n)
    const set = {}
    setOlder({setHeader: (name, value) => (set[name] = value)}, 'draft-7', tightest({limits: told}, null))
    assert.deepEqual(set, {'RateLimit-Policy': `${fields.limit}`, RateLimit: `limit=9, remaining=${fields.remaining}, reset=${fields.reset}`}, `of ${n}`)
  }
  assert.equal(tightest({limits: limits.slice(5)}, null), null, 'nothing is told of others, of shadows, bans and what is soft')
})

test('what is told of a bucket', () => {
  const set = (d, bucket) => {
    const lines = {}
    setFields({appendHeader: (name, value) => (lines[name] = [...(lines[name] ?? []), value])}, d, bucket)
    return lines
  }
  const of = (allowed, remaining, resetMs, retryAfterMs) => ({limits: [{allowed, remaining, resetMs, retryAfterMs}]})
  const bucket = new Bucket('a "b" \\', 60, 10, 60)
  const policy = '"a \\"b\\" \\\\";q=10;w=10'
  for (const [d, standing] of [
    [of(true, 9, 1000, 0), 'r=9;t=9'],
    [of(true, 0, 10_000, 0), 'r=0;t=1'],
    [of(false, 0, 10_000, 700), 'r=0;t=1'],
    [of(false, 3, 7000, 4001), 'r=0;t=5'],
    [of(false, 3, 7000, null), 'r=3;t=3'] // costs more than it holds
  ]) {
    assert.deepEqual(set(d, bucket), {'RateLimit-Policy': [policy], RateLimit: [`${policy.replace(/;.*/, '')};${standing}`]})
  }
  assert.deepEqual(set(of(false, 0, 5000, null), new Bucket('none', 0, 0, 5)), {'RateLimit-Policy': ['"none";q=0;w=5'], RateLimit: ['"none";r=0;t=5']})
  assert.deepEqual(set({limits: []}, bucket), {}, 'nobody has decided')
  assert.deepEqual(set({limits: [], details: null}, null), {})
})

test('who waits too long, and what a process that was held up owes its server', async (t) => {
  let at = 0
  t.mock.method(performance, 'now', () => at)
  t.mock.timers.enable({apis: ['setTimeout']})
  const pass = async (ms) => {
    at += ms
    t.mock.timers.tick(ms)
    await new Promise((resolve) => setImmediate(resolve))
  }
  const expired = []
  const waiting = new Waiting(100, (call) => {
    waiting.remove(call)
    expired.push(call.name)
  })
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => ({name}))
  waiting.add(a)
  await pass(60)
  waiting.add(b)
  waiting.add(c)
  await pass(40)
  assert.deepEqual([expired, waiting.size], [['a'], 2])
  waiting.remove(b)
  await pass(60)
  assert.deepEqual([expired, waiting.size], [['a', 'c'], 0])

  waiting.add(d)
  at += 200 // held up: timers are late
  await pass(100)
  assert.deepEqual(expired, ['a', 'c'], 'it is given as much again')
  await pass(99)
  assert.equal(waiting.size, 1)
  await pass(1)
  assert.deepEqual([expired, waiting.size], [['a', 'c', 'd'], 0])
})

test('how soon a connection is tried again', () => {
  for (const [where, most] of [
    [{url: 'unix:///x'}, 100],
    [{url: 'redis://127.0.0.1'}, 100],
    [{url: 'redis://[::1]:1'}, 100],
    [{url: 'redis://localhost'}, 100],
    [{}, 100],
    [{redis: {path: '/x'}}, 100],
    [{redis: {host: '10.0.0.1'}}, 1000],
    [{url: 'redis://example.org'}, 1000]
  ]) {
    const {retryStrategy} = settings({...where, url: where.url && new URL(where.url)})
    const pauses = Array.from({length: 40}, (_, i) => retryStrategy(i + 1))
    assert.ok(pauses[0] <= 25 && Math.max(...pauses) <= most && Math.min(...pauses.slice(10)) >= 0.75 * most, `${JSON.stringify(where)}: ${pauses}`)
  }
})
