// The parts that need no server.
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {ipKeyGenerator} from 'headgate'
import {Breaker} from '../lib/breaker.js'
import {items, setStandard} from '../lib/fields.js'
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

test('of several limits the tightest come first, at most four', () => {
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
    limit('soft', {overage: 5, remaining: 0}),
    limit('bad\nname', {remaining: 0})
  ]
  const fields = {}
  const res = {getHeader: (name) => fields[name], setHeader: (name, value) => (fields[name] = value)}
  setStandard(res, 'draft-8', items({limits}, null))
  assert.deepEqual(fields, {
    'RateLimit-Policy': '"never";q=9, "long";q=9, "short";q=9, "tight";q=9',
    RateLimit: '"never";r=3;t=2, "long";r=0;t=60, "short";r=0;t=2, "tight";r=2;t=2'
  })
  const slots = {}
  setStandard({getHeader: () => undefined, setHeader: (name, value) => (slots[name] = value)}, 'draft-8', items({limits: [limit('slots', {algorithm: 'concurrency', remaining: 1})]}, null))
  assert.equal(slots['RateLimit-Policy'], '"slots";q=9;qu="concurrent-requests"')
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
