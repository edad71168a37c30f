// Faults of programs, clients and loggers: what is not decided is not let pass, and nothing
// ends the process.
import assert from 'node:assert/strict'
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import http from 'node:http'
import {connect} from 'node:net'
import {after, before, describe, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import express from 'express'
import {Headgate, rateLimit} from 'headgate'
import {TokenClient} from 'headgate/pm2'
import {BadTarget, targetOf} from '../lib/target.js'
import {atEnd, listener, startOnSockets, startServer} from '../testing/server.js'

const suite = atEnd(after)
let server
let client
before(async () => {
  server = await startServer(suite)
  client = new Headgate({url: server.redis, timeout: 5000, logger: listener()})
  suite.after(() => client.close())
})

async function serve(t, handler) {
  const s = http.createServer(handler).listen(0, '127.0.0.1')
  await once(s, 'listening')
  t.after(() => (s.close(), s.closeAllConnections()))
  return s.address().port
}

/** Sends a request line as it stands, and returns what comes until the connection ends. */
async function raw(port, line, headers = '') {
  const socket = connect(port, '127.0.0.1')
  socket.write(`${line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${headers}\r\n`)
  let said = ''
  for await (const text of socket.setEncoding('utf8')) said += text
  return {status: Number(said.split(' ')[1]), body: said.slice(said.indexOf('\r\n\r\n') + 4), said}
}

/** Runs a program in a process of its own. */
async function run(text) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', text], {cwd: fileURLToPath(new URL('..', import.meta.url))})
  let said = ''
  child.stdout.on('data', (part) => (said += part))
  child.stderr.on('data', (part) => (said += part))
  const [code] = await once(child, 'close')
  return {code, said}
}

describe('rules by path', () => {
  const dotted = "the path has a segment '.' or '..', which routers and rules may read as different paths"

  test('are those of the path that routers find, or the request is refused', async (t) => {
    const app = express().use(rateLimit({client, application: 'default', identifier: () => 'paths'}))
    app.post('/v1/x', (req, res) => res.send(`${req.rateLimitInfo.details.rule}`))
    app.use((req, res) => res.status(404).end())
    app.use((err, req, res, next) => res.status(500).send(err.message))
    const port = await serve(t, app)
    for (const target of ['/v1/x', 'http://h:99999/v1/x', 'HTTP://h/v1/x?y']) assert.equal((await raw(port, `POST ${target}`)).body, 'path', target)
    for (const [target, status, detail] of [
      ['/v1/../v1/x', 400, dotted],
      ['/api/%2e%2e/health', 400, dotted],
      ['/api/..%2f../health', 400, dotted],
      ['http://a%zz/v1/x', 400, 'the path cannot be read'],
      ['/v1/x%00', 400, 'the path has a control character'],
      ['/v1/%zz', 400, "the path has a '%' that two hexadecimal digits do not follow"],
      [`/${'a'.repeat(9000)}`, 414, 'the path is longer than 8192 bytes']
    ]) {
      const r = await raw(port, `POST ${target}`)
      assert.deepEqual([r.status, JSON.parse(r.body)], [status, {type: 'urn:headgate:problem:invalid_request', title: 'Invalid request', status, detail}], target)
    }
  })

  test('are found by these paths', () => {
    const long = `?${'x'.repeat(9000)}`
    for (const [target, path] of [
      ['/', '/'],
      ['*', '/*'],
      ['/a?b=/../c', '/a?b=/../c'],
      [`/a${long}`, '/a'],
      ['/a#b', '/a'],
      ['http://h', '/'],
      ['http://h?x', '/?x'],
      ['/.well-known/x', '/.well-known/x'],
      ['/a/...', '/a/...'],
      ['/a/..x', '/a/..x'],
      ['/a/%2ex', '/a/%2ex'],
      ['/%2e%2e%2e/', '/%2e%2e%2e/']
    ]) {
      assert.equal(targetOf({url: target}), path, target)
    }
    for (const bad of ['/..', '/a/..', '/a/.', '/a/%2E', '/a/.%2e/b', '/a%2F..%2fb', '/a/..?q', 'http://h/a/../b', '/a/%2', '/a%7f', 'x/y', 'http://[::1/v1', `/${'é'.repeat(4096)}`]) {
      assert.throws(() => targetOf({url: bad}), BadTarget, bad)
    }
    assert.equal(targetOf({originalUrl: '/mounted/x', url: '/x'}), '/mounted/x')
  })
})

test('what next throws is the own of the program', async () => {
  const text = (limiter) => `
    import {Headgate, rateLimit} from 'headgate'
    import http from 'node:http'
    const client = new Headgate({url: ${JSON.stringify(server.redis)}, timeout: 5000})
    const limiter = rateLimit({client, ...${limiter}})
    process.on('unhandledRejection', () => console.log('unhandledRejection'))
    process.on('uncaughtException', (err) => { console.log('uncaughtException', err.message); process.exit(3) })
    const s = http.createServer((req, res) => limiter(req, res, () => { throw new Error('mine') })).listen(0, '127.0.0.1', () => http.get(s.address()).on('error', () => {}))`
  for (const limiter of ['{}', '{identifier: () => Promise.reject()}']) assert.deepEqual(await run(text(limiter)), {code: 3, said: 'uncaughtException mine\n'})
})

describe('a response that has begun', () => {
  for (const [name, options, url] of [
    ['without a server', {}, 'redis://127.0.0.1:1'],
    ['with a refusal', {limit: 0}, null],
    ['with a refusal that is told', {limit: 0, onLimitExceeded() {}, message: () => 'slow'}, null]
  ]) {
    test(`${name} is ended`, async (t) => {
      const own = url ? new Headgate({url, logger: listener()}) : client
      if (url) t.after(() => own.close())
      const errors = []
      const app = express().use((req, res, next) => (res.write('early'), next()), rateLimit({client: own, ...options}), (req, res) => res.end('passed'))
      app.use((err, req, res, next) => (errors.push(err.code), res.destroy()))
      const r = await raw(await serve(t, app), 'GET /')
      assert.deepEqual([r.status, r.body.includes('early'), r.body.includes('passed'), errors], [200, true, false, []])
    })
  }
})

test('a client that has left is no error', async (t) => {
  const seen = []
  let decided = false
  const app = express()
  app.use((req, res, next) => {
    req.socket.once('close', () => {
      next()
      decided = true
    })
    req.socket.destroy()
  })
  app.use(rateLimit({client}), () => seen.push('served'))
  app.use((err, req, res, next) => seen.push(err.code))
  const port = await serve(t, app)
  const ended = once(connect(port, '127.0.0.1').on('error', () => {}).on('connect', function () { this.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n') }), 'close')
  await ended
  // All that follows runs in promises and ticks, before the next turn of the event loop.
  for (let turns = 0; turns < 5; turns += decided ? 1 : 0) await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(seen, [])
})

for (const door of ['redis', 'http']) {
  describe(`a logger that fails, by ${door}`, () => {
    for (const [name, warn] of [
      ['throws', () => { throw new Error('disk full') }],
      ['rejects', async () => { throw new Error('disk full') }]
    ]) {
      test(name, async (t) => {
        const own = await startOnSockets(t)
        await own.kill()
        const c = new Headgate({url: own[door], timeout: 500, logger: {warn, info: warn}})
        t.after(() => c.close())
        assert.equal((await c.throttle('k', {count: 9, period: 60})).degraded, 'closed')
        await own.start()
        for (let answered = false; !answered; ) answered = await c.ping().then(() => true, () => false)
        assert.equal((await c.throttle('k', {count: 9, period: 60})).degraded, null)
      })
    }
  })

  test(`a call by ${door} that cannot be sent is the caller's fault`, async (t) => {
    const c = new Headgate({url: server[door], timeout: 200, breaker: {failures: 1, cooldown: 60_000}, logger: listener()})
    t.after(() => c.close())
    const json = t.mock.method(JSON, 'stringify', () => { throw new Error('no room') })
    const write = t.mock.method(Set.prototype, 'add', function () { throw new Error('no room') })
    const asked = c.throttle('k', {count: 9, period: 60})
    json.mock.restore()
    write.mock.restore()
    await assert.rejects(asked, {code: 'invalid_request', message: 'this cannot be sent: no room'})
    const {pending, timeouts, breaker} = c.stats()
    assert.deepEqual({pending, timeouts, breaker}, {pending: 0, timeouts: 0, breaker: 'closed'})
  })
}

test('consume does not reject where the logger throws', async (t) => {
  const c = new TokenClient({url: 'redis://127.0.0.1:1', capacity: 5, refillRate: 1, refillInterval: 1000, timeout: 50, logger: { warn() { throw new Error('disk full') } }})
  t.after(() => c.close())
  assert.deepEqual([await c.consume(-1), await c.consume(1000), await c.consume(1)], [false, false, true])
})

test('a program whose server is away ends soon after close', async () => {
  const text = `
    import {Headgate} from 'headgate'
    const c = new Headgate({url: 'redis://127.0.0.1:1', logger: {warn() {}}})
    await c.throttle('k', {count: 9, period: 60})
    await c.close()
    const at = performance.now()
    process.on('exit', () => console.log(performance.now() - at < 1000))`
  assert.deepEqual(await run(text), {code: 0, said: 'true\n'})
})
