import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {getEventListeners} from 'node:events'
import {writeFileSync} from 'node:fs'
import http from 'node:http'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {Redis} from 'ioredis'
import {Headgate, HeadgateError} from 'headgate'
import {atEnd, newScratch, startOnSockets, startServer} from '../testing/server.js'

// A machine under load may be slow to answer; what becomes of slow answers is another test's.
const patient = {timeout: 5000}

function clientFor(t, options) {
  const client = new Headgate({...patient, ...options})
  t.after(() => client.close())
  return client
}

let server
const suite = atEnd(after)
before(async () => (server = await startServer(suite)))

// Every call through both doors: the answers are the same.
for (const door of ['redis', 'http']) {
  describe(`by ${door}`, () => {
    let client
    before(() => (client = new Headgate({...patient, url: server[door]})))
    after(() => client.close())

    test('ping', () => client.ping())

    test('throttle', async () => {
      const key = `throttle-${door}`
      const limit = {burst: 3, count: 1, period: 3600}
      const d = await client.throttle(key, limit)
      assert.deepEqual(
        [d.allowed, d.reason, d.limit, d.remaining, d.retryAfterMs, d.retryable, d.degraded, d.error, d.ticket],
        [true, 'ok', 3, 2, 0, true, null, null, null]
      )
      assert.ok(d.resetMs > 3_590_000 && d.resetMs <= 3_600_000, `${d.resetMs}`)
      assert.equal(d.limits.length, 1)
      const {id, algorithm, owner, unit, used, remaining, exact} = d.limits[0]
      assert.deepEqual({id, algorithm, owner, unit, used, remaining, exact}, {id: 'throttle', algorithm: 'token_bucket', owner: 'subject', unit: 'requests', used: 1, remaining: 2, exact: true})

      assert.equal((await client.throttle(key, {...limit, cost: 2})).remaining, 0)
      const refused = await client.throttle(key, limit)
      assert.deepEqual([refused.allowed, refused.reason, refused.remaining, refused.retryable], [false, 'rate_limited', 0, true])
      assert.ok(refused.retryAfterMs > 3_590_000 && refused.retryAfterMs <= 3_600_000)
      const never = await client.throttle(key, {...limit, cost: 4})
      assert.deepEqual([never.allowed, never.reason, never.retryable, never.retryAfterMs], [false, 'cost_exceeds_limit', false, null])
      assert.equal((await client.throttle(`other-${door}`, {count: 7, period: 60, cost: 0})).remaining, 7)
    })

    test('throttle in milliseconds', async () => {
      const limit = {burst: 2, count: 3, period: 1.5}
      const d = await client.throttle(`ms-${door}`, limit)
      assert.deepEqual([d.allowed, d.limit, d.remaining, d.resetMs], [true, 2, 1, 500])
    })

    test('take, peek, consumeTokens', async () => {
      const alice = {operation: 'send', subject: `alice-${door}`}
      const d = await client.take(alice)
      assert.deepEqual([d.allowed, d.reason, d.limit, d.remaining, d.degraded], [true, 'ok', 5, 4, null])
      const {application, rule, operation, subject, plan, cost, units, boundBy, replayed, policyRevision} = d.details
      assert.deepEqual(
        {application, rule, operation, subject, plan, cost, units, boundBy, replayed, policyRevision},
        {application: 'default', rule: 'send', ...alice, plan: 'free', cost: 1, units: {}, boundBy: 'send/burst', replayed: false, policyRevision: 1}
      )
      assert.match(d.details.id, /^[0-9a-f]{32}$/)
      assert.deepEqual(d.limits.map((l) => [l.id, l.allowed, l.used, l.remaining, l.resetsAt]), [['send/burst', true, 1, 4, null]])
      assert.equal((await client.peek(alice)).remaining, 4)
      assert.equal((await client.consumeTokens(alice.subject, 4, 'send')).remaining, 0)
      const refused = await client.consumeTokens(alice.subject, 1, 'send')
      assert.deepEqual([refused.allowed, refused.reason], [false, 'rate_limited'])
      assert.equal((await client.take({...alice, subject: `bob-${door}`, plan: 'paid', cost: 10})).remaining, 40)
      assert.deepEqual((await client.take({...alice, cost: 6})).retryAfterMs, null)
    })

    test('the header fields of a decision', async () => {
      const carol = {operation: 'send', subject: `carol-${door}`}
      const fieldsOf = ({details}) => [details.rateLimitPolicy, details.rateLimit]
      assert.deepEqual(fieldsOf(await client.take(carol)), [null, null])
      for (const [kind, remaining, wait] of [['peek', 4, 2880], ['take', 3, 2160], ['reserve', 2, 1440]]) {
        assert.deepEqual(fieldsOf(await client[kind]({...carol, fields: true})), ['"send/burst";q=5;w=3600', `"send/burst";r=${remaining};t=${wait}`], kind)
      }
      assert.deepEqual(fieldsOf(await client.take({...carol, operation: 'other', fields: true})), [null, null], 'no limit is theirs')
      await assert.rejects(client.take({...carol, fields: 'yes'}), {name: 'TypeError', message: /^fields: "yes": must be true or false/})
    })

    test('all that a request may say', async () => {
      const once = {operation: 'send', subject: `once-${door}`, id: `id-${door}`}
      await client.take(once)
      const again = await client.take(once)
      assert.deepEqual([again.details.replayed, again.remaining], [true, 4])

      const tokens = await client.take({operation: 'tokens', subject: `t-${door}`, units: {tokens: 30}})
      assert.deepEqual([tokens.limits[0].unit, tokens.remaining, tokens.details.units], ['tokens', 70, {tokens: 30}])

      const org = {operation: 'org', attributes: {org: `acme-${door}`}}
      assert.equal((await client.take({...org, subject: 'a'})).details.boundBy, 'org/all')
      await client.take({...org, subject: 'b'})
      assert.equal((await client.take({...org, subject: 'c'})).allowed, false)

      const network = door === 'redis' ? '2001:db8:0:1::/64' : '2001:db8:0:2::/64'
      const http = {method: 'POST', path: '/v1/x?y=1', host: 'example.org', headers: {'X-Tag': ['a', 'b'], 'X-Other': 'c'}, ip: network.replace('/64', '9')}
      const byPath = await client.take(http)
      assert.deepEqual([byPath.details.rule, byPath.details.subject, byPath.remaining], ['path', network, 2])
      assert.equal((await client.take({...http, ip: '203.0.113.9'})).reason, 'deny_listed')
    })

    test('reserve, renew, settle, release', async () => {
      const held = {operation: 'send', subject: `held-${door}`, cost: 4, ttl: 60_000}
      const first = await client.reserve(held)
      assert.equal(first.remaining, 1)
      assert.equal((await client.renew(first.ticket, {ttl: 90_000})).details.held, true)
      const settled = await client.settle(first.ticket, {cost: 1})
      assert.deepEqual([settled.details.held, settled.remaining], [true, 4])
      assert.equal((await client.settle(first.ticket)).details.held, false)
      const second = await client.reserve(held)
      assert.equal((await client.release(second.ticket)).remaining, 4)

      const slot = {operation: 'slots', subject: `slot-${door}`}
      const taken = await client.take(slot)
      assert.equal((await client.take(slot)).reason, 'concurrency_exceeded')
      await client.release(taken.ticket)
      assert.equal((await client.take(slot)).allowed, true)
    })

    test('reset takes a token of an operator', async (t) => {
      const subject = `reset-${door}`
      await client.consumeTokens(subject, 5, 'send')
      await assert.rejects(client.reset({subject}), {name: 'HeadgateError', code: door === 'redis' ? 'forbidden' : 'unauthorized'})
      const operator = clientFor(t, {url: server[door], token: server.token})
      assert.deepEqual(await operator.reset({subject, limits: ['send/burst']}), {application: 'default', subject, limits: ['send/burst']})
      assert.equal((await client.peek({operation: 'send', subject})).remaining, 5)
      await assert.rejects(operator.reset({subject, limits: ['nothing']}), {code: 'not_found'})
      await operator.reset({subject})
    })

    test('what the server finds wrong rejects, whatever onError says', async (t) => {
      const open = clientFor(t, {url: server[door], onError: 'open'})
      for (const [request, code, message] of [
        [{application: 'nowhere', operation: 'x'}, 'not_found', /nowhere/],
        [{operation: 'send', subject: 'x\ny'}, 'invalid_request', /subject/],
        [{operation: 'send', subject: 'x', ip: 'home'}, 'invalid_request', /home/],
        [{operation: 'tokens', subject: 'x'}, 'invalid_request', /tokens/]
      ]) {
        await assert.rejects(open.take(request), (err) => err instanceof HeadgateError && err.code === code && message.test(err.message))
      }
      await open.take({operation: 'send', subject: 'conflict', id: `conflict-${door}`})
      await assert.rejects(open.take({operation: 'send', subject: 'conflict', id: `conflict-${door}`, cost: 2}), {code: 'conflict'})
      await assert.rejects(open.throttle('', {count: 1, period: 1}), {code: 'invalid_request'})
      await assert.rejects(open.settle('no-ticket'), HeadgateError)
      assert.equal(open.stats().errors, 7)
    })

    test('stats', async (t) => {
      const c = clientFor(t, {url: server[door]})
      const limit = {count: 1, period: 3600}
      await c.throttle(`stats-${door}`, limit)
      await c.throttle(`stats-${door}`, limit)
      await c.peek({operation: 'send', subject: 'x'})
      await assert.rejects(c.take({application: 'nowhere', operation: 'x'}))
      assert.deepEqual(c.stats(), {calls: 4, allowed: 1, refused: 1, failedOpen: 0, failedClosed: 0, timeouts: 0, errors: 1, pending: 0, breaker: 'closed', connected: true})
    })

    test('many at one time are answered each by its own', async () => {
      const answers = await Promise.all(Array.from({length: 500}, (_, i) => client.throttle(`many-${door}-${i}`, {count: 1000 + i, period: 3600})))
      answers.forEach((d, i) => assert.equal(d.limit, 1000 + i))
      const one = await Promise.all(Array.from({length: 200}, () => client.throttle(`one-${door}`, {count: 150, period: 3600})))
      assert.equal(one.filter((d) => d.allowed).length, 150)
    })
  })
}

test('waiting in line', async (t) => {
  const client = clientFor(t, {url: server.http})
  const line = {operation: 'line', subject: 'line'}
  await client.take(line)
  assert.equal((await client.take(line)).allowed, false, 'without maxWait it does not wait, whatever the rule says')
  const waited = await client.take({...line, maxWait: 5000})
  assert.equal(waited.allowed, true)
  assert.ok(waited.details.waitedMs > 0)
  const overRedis = clientFor(t, {url: server.redis})
  assert.equal((await overRedis.take(line)).allowed, false)
  await assert.rejects(overRedis.take({...line, maxWait: 1}), {code: 'invalid_request', message: /ask over HTTP/})
})

test('the calls of one turn are one write', async (t) => {
  const client = clientFor(t, {url: server.redis})
  await client.ping()
  const {Socket} = await import('node:net')
  const writev = t.mock.method(Socket.prototype, '_writev')
  const single = t.mock.method(Socket.prototype, '_write')
  await Promise.all(Array.from({length: 100}, (_, i) => client.throttle(`write-${i}`, {count: 1, period: 60})))
  assert.equal(writev.mock.callCount() + single.mock.callCount(), 1)
})

test('unix sockets', async (t) => {
  const s = await startOnSockets(t)
  assert.match(s.redis, /^unix:\/\/\//)
  for (const url of [s.redis, s.http]) {
    const client = clientFor(t, {url})
    assert.equal((await client.take({operation: 'send', subject: url})).remaining, 4)
  }
})

test('TLS and tokens', async (t) => {
  const scratch = newScratch()
  const [cert, key] = [join(scratch, 'cert.pem'), join(scratch, 'key.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert], {stdio: 'pipe'})
  const config = join(scratch, 'config.yaml')
  writeFileSync(config, `version: 1\ntls:\n  cert: ${cert}\n  key: ${key}\n`)
  const s = await startServer(t, {scratch, env: {HEADGATE_CONFIG: config, HEADGATE_DECISION_AUTH: 'token'}})
  const ca = execFileSync('cat', [cert])
  const logger = {warn() {}}
  for (const url of [`rediss://${s.addresses.resp}`, `https://${s.addresses.http}`]) {
    const request = {operation: 'send', subject: url}
    assert.equal((await clientFor(t, {url, token: s.token, tls: {ca}}).take(request)).remaining, 4)
    await assert.rejects(clientFor(t, {url, tls: {ca}, onError: 'open'}).take(request), {code: 'unauthorized'})
    const stranger = clientFor(t, {url, token: s.token, timeout: 500, onError: 'throw', logger})
    await assert.rejects(stranger.take(request), (err) => /self-signed certificate/.test(err.message))
    await assert.rejects(clientFor(t, {url, token: 'wrong', tls: {ca}, onError: 'open', logger}).take(request), {code: 'unauthorized'})
  }
  const inURL = new URL(`rediss://${s.addresses.resp}`)
  inURL.password = s.token
  assert.equal((await clientFor(t, {url: inURL.href, tls: {ca}}).take({operation: 'send', subject: 'url'})).remaining, 4)
})

test('the port that http:// means', async (t) => {
  const asked = []
  t.mock.method(http, 'request', ({host, port}) => {
    asked.push(`${host}:${port}`)
    throw new Error('not sent')
  })
  for (const url of ['http://a', 'http://a/', 'http://a:80', ' HTTP://a:80/', 'http://a:8081', 'http://a:8081?x', 'http://[::1]:80', 'http://[::1]']) await assert.rejects(clientFor(t, {url}).ping(), /not sent/)
  assert.deepEqual(asked, ['a:8080', 'a:8080', 'a:80', 'a:80', 'a:8081', 'a:8081', '::1:80', '::1:8080'])
})

test('one listener serves all calls that a signal may end', async (t) => {
  const client = clientFor(t, {url: server.redis})
  const gone = new AbortController()
  const warned = []
  const warn = (warning) => warned.push(warning.message)
  process.on('warning', warn)
  t.after(() => process.off('warning', warn))
  const take = (signal) => client.take({operation: 'send', subject: 'signals', signal})
  await Promise.all(Array.from({length: 20}, () => take(gone.signal)))
  assert.equal(getEventListeners(gone.signal, 'abort').length, 0)
  const asked = Array.from({length: 20}, () => assert.rejects(take(gone.signal), {code: 'aborted'}))
  assert.equal(getEventListeners(gone.signal, 'abort').length, 1)
  gone.abort()
  await Promise.all(asked)
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual([warned, getEventListeners(gone.signal, 'abort').length, client.stats().pending], [[], 0, 0])
})

test('options and instances of ioredis', async (t) => {
  const {hostname: host, port} = new URL(server.redis)
  const instance = new Redis({host, port: Number(port), lazyConnect: true})
  const strings = new Redis({host, port: Number(port), lazyConnect: true, stringNumbers: true, monitor: true})
  for (const redis of [instance, {host, port: Number(port)}, strings]) {
    const d = await clientFor(t, {redis}).throttle('instances', {count: 9, period: 60})
    assert.deepEqual([d.allowed, d.limit], [true, 9])
  }
  assert.equal(instance.status, 'wait', 'the instance itself is not used')
  await assert.rejects(async () => new Headgate({redis: new Redis.Cluster([], {lazyConnect: true})}), {name: 'TypeError', message: /^redis: a Cluster/})
})

test('bad options are errors that name the fault', () => {
  for (const [options, message] of [
    [null, /^options: must be an object/],
    [{ulr: 'x'}, /^ulr: unknown; there are url,/],
    [{url: 'localhost'}, /^url: localhost: must be such as redis:/],
    [{url: 'ftp://x'}, /^url: ftp:\/\/: must be one of redis:/],
    [{url: 'unix://run/x.sock'}, /^url: .*three slashes/],
    [{url: 'http://x/v1'}, /^url: \/v1: the server's addresses have no path/],
    [{url: 'http://u:p@x'}, /^url: .*token/],
    [{url: 'redis://:secret@x:99999'}, /^url: redis:\/\/\.\.\.@x:99999: must be such as/],
    [{url: 'unix:///a%zz'}, /^url: has a '%' that begins no escape/],
    [{url: 'http+unix:///a%ff'}, /^url: has a '%'/],
    [{url: 'redis://:100%@x'}, /^url: has a '%'/],
    [{application: '\ud800'}, /^application/],
    [{timeout: 0}, /^timeout: 0: must be a whole number from 1 to 60000/],
    [{timeout: '100'}, /^timeout/],
    [{onError: 'ignore'}, /^onError: "ignore": must be 'open', 'closed' or 'throw'/],
    [{breaker: {failures: 0}}, /^breaker.failures: 0/],
    [{breaker: {tries: 1}}, /^tries: unknown; there are failures, cooldown/],
    [{breaker: {cooldown: 1.5}}, /^breaker.cooldown: 1.5/],
    [{application: ''}, /^application/],
    [{maxPending: -1}, /^maxPending: -1/],
    [{token: ''}, /^token/],
    [{token: 'tök€n', url: 'http://127.0.0.1:1'}, /^token: must be a string of printable ASCII/],
    [{token: 'a b'}, /^token/],
    [{token: 'a\r\nb'}, /^token/],
    [{logger: {}}, /^logger: must have a method warn/],
    [{tls: {}}, /^tls: only with a url of rediss/],
    [{redis: 'x'}, /^redis: must be an ioredis instance/],
    [{redis: {}, url: 'http://127.0.0.1:1'}, /^redis: the url is of HTTP/]
  ]) {
    assert.throws(() => new Headgate(options), {name: 'TypeError', message}, JSON.stringify(options))
  }
})

test('bad calls reject with what is wrong', async (t) => {
  const client = clientFor(t, {url: server.redis})
  for (const [method, args, message] of [
    ['take', [undefined], /^the argument: .*must be an object/],
    ['take', [{operation: 'send', subjet: 'x'}], /^subjet: unknown; there are application,/],
    ['take', [{subject: 'x'}], /^operation: say what is done/],
    ['take', [{operation: 'send', subject: 7}], /^subject: 7: must be a string/],
    ['take', [{operation: 'send', cost: -1}], /^cost: -1: must be a whole number from 0/],
    ['take', [{operation: 'send', cost: 1.5}], /^cost/],
    ['take', [{operation: 'send', units: {tokens: '3'}}], /^units.tokens/],
    ['take', [{operation: 'send', attributes: {org: null}}], /^attributes.org/],
    ['take', [{operation: 'send', headers: {a: [1]}}], /^headers.a/],
    ['take', [{operation: 'send', headers: 'x'}], /^headers: "x": must be an object/],
    ['take', [{operation: 'send', onError: 'x'}], /^onError/],
    ['take', [{operation: 'send', ttl: 5}], /^ttl: unknown/],
    ['throttle', ['k', undefined], /^the limit: undefined: must be an object/],
    ['throttle', ['k', {count: 0, period: 1}], /^count: 0: must be a whole number from 1/],
    ['throttle', ['k', {count: 1, period: 0}], /^period: 0: must be seconds from 0.001/],
    ['throttle', ['k', {count: 1, period: Infinity}], /^period/],
    ['throttle', ['k', {count: 1, burst: 0, period: 1}], /^burst/],
    ['throttle', ['k', {count: 1, period: 1, perod: 1}], /^perod: unknown/],
    ['throttle', [7, {count: 1, period: 1}], /^key: 7/],
    ['settle', [undefined], /^ticket/],
    ['settle', ['t', {ttl: 1}], /^ttl: unknown; there are cost, units/],
    ['reset', [{}], /^subject/],
    ['reset', [{subject: '\ud800'}], /^subject: .*must be well-formed Unicode/],
    ['reset', [{subject: 'x', application: '\ud800'}], /^application: /],
    ['take', [{operation: 'send', signal: {}}], /^signal: .*must be an AbortSignal/],
    ['reset', [{subject: 'x', limits: 'all'}], /^limits: "all": must be a list/],
    ['consumeTokens', ['x', '1', 'send'], /^cost: "1"/]
  ]) {
    await assert.rejects(client[method](...args), {name: 'TypeError', message}, `${method} ${JSON.stringify(args)}`)
  }
  assert.equal(client.stats().calls, 0)
})
