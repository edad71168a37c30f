// What is held is given back, whatever becomes of the request, the server and the program.
import assert from 'node:assert/strict'
import {EventEmitter, once} from 'node:events'
import http from 'node:http'
import {connect} from 'node:net'
import {after, before, test} from 'node:test'
import {setTimeout as delay} from 'node:timers/promises'
import express from 'express'
import {Headgate, rateLimit} from 'headgate'
import {onceClosed} from '../lib/closing.js'
import {atEnd, listener, startOnSockets, startServer} from '../testing/server.js'

const suite = atEnd(after)
let server
before(async () => (server = await startServer(suite)))

function clientFor(t, options) {
  const client = new Headgate({logger: listener(), timeout: 5000, ...options})
  t.after(() => client.close())
  return client
}

/** Listens with a handler, and returns the port. */
async function serve(t, handler) {
  const s = http.createServer(handler).listen(0, '127.0.0.1')
  await once(s, 'listening')
  t.after(() => (s.close(), s.closeAllConnections()))
  return s.address().port
}

const status = async (port, path = '/') => (await fetch(`http://127.0.0.1:${port}${path}`)).status

/** Resolves when it is so, which is looked at every 5 ms. Fails after `most` milliseconds. */
async function until(what, isSo, most = 10_000) {
  for (const began = performance.now(); !(await isSo()); await delay(5)) {
    if (performance.now() - began > most) throw new Error(`not within ${most} ms: ${what}`)
  }
}

let names = 0
const fresh = () => `ticket-${names++}`
const slots = (client, subject, more) => rateLimit({client, application: 'default', operation: 'slots', identifier: () => subject, ...more})
const isFree = async (client, subject) => (await client.peek({operation: 'slots', subject})).allowed

for (const door of ['redis', 'http']) {
  test(`a late answer by ${door} keeps no slot`, async (t) => {
    const client = clientFor(t, {url: server[door], timeout: 100})
    await until('there is a connection', () => client.ping().then(() => true, () => false))
    const port = await serve(t, express().use(slots(client, fresh()), (req, res) => res.end()))
    const release = t.mock.method(Headgate.prototype, 'release')
    server.freeze()
    t.after(() => server.thaw())
    assert.equal(await status(port), 503)
    server.thaw()
    await until('the late ticket is released', () => release.mock.callCount() > 0)
    assert.equal((await release.mock.calls[0].result).details.held, true)
    assert.equal(await status(port), 200)
  })

  test(`nor does one by ${door} that comes after the client has looked in vain whether the server is back`, async (t) => {
    const client = clientFor(t, {url: server[door], timeout: 50, breaker: {failures: 1, cooldown: 50}})
    await until('there is a connection', () => client.ping().then(() => true, () => false))
    const release = t.mock.method(Headgate.prototype, 'release')
    const request = {operation: 'slots', subject: fresh()}
    server.freeze()
    t.after(() => server.thaw())
    assert.equal((await client.take(request)).error.code, 'timeout')
    for (let i = 0; i < 3; i++) await assert.rejects(client.ping())
    server.thaw()
    await until('the late ticket is released', () => release.mock.callCount() > 0)
    await until('the slot is free', () => isFree(client, request.subject))
  })

  test(`a call by ${door} that is given up keeps no slot`, async (t) => {
    const client = clientFor(t, {url: server[door]})
    await client.ping()
    const release = t.mock.method(Headgate.prototype, 'release')
    const request = {operation: 'slots', subject: fresh()}
    const gone = new AbortController()
    server.freeze()
    t.after(() => server.thaw())
    const asked = assert.rejects(client.take({...request, signal: gone.signal}), {code: 'aborted'})
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve)) // it is sent
    gone.abort()
    await asked
    assert.deepEqual([client.stats().pending, client.stats().breaker], [0, 'closed'])
    server.thaw()
    await until('the ticket is released', () => release.mock.callCount() > 0)
    await until('the slot is free', () => isFree(client, request.subject))
  })

  test(`a late answer by ${door} to a request with an id is left to who asks again`, async (t) => {
    const client = clientFor(t, {url: server[door], timeout: 100})
    await until('there is a connection', () => client.ping().then(() => true, () => false))
    const release = t.mock.method(Headgate.prototype, 'release')
    const request = {operation: 'slots', subject: fresh(), id: fresh()}
    server.freeze()
    t.after(() => server.thaw())
    assert.equal((await client.take(request)).error.code, 'timeout')
    server.thaw()
    await until('there is a ticket', async () => (await client.take(request)).ticket !== null)
    assert.equal(release.mock.callCount(), 0)
  })

  test(`a ticket by ${door} is released when the server is back`, async (t) => {
    const own = await startOnSockets(t)
    const client = clientFor(t, {url: own[door], timeout: 100, breaker: {failures: 1, cooldown: 50}})
    const subject = fresh()
    await until('there is a connection', () => client.ping().then(() => true, () => false))
    let finish
    const port = await serve(t, express().use(slots(client, subject), (req, res) => (finish = () => res.end())))
    const asked = status(port)
    await until('it is served', () => finish)
    const ticket = t.mock.method(client, 'release')
    own.freeze()
    finish()
    assert.equal(await asked, 200)
    await until('it was tried twice', () => ticket.mock.callCount() >= 2)
    own.thaw()
    await until('the slot is free', async () => (await client.peek({operation: 'slots', subject})).reason === 'ok')
  })

  test(`a ticket by ${door} that cannot be ended is given up when it has run out`, async (t) => {
    const logger = listener()
    const client = clientFor(t, {url: door === 'redis' ? 'redis://127.0.0.1:1' : 'http://127.0.0.1:1', logger})
    await client.endTicket('release', 'none', 150)
    assert.ok(logger.lines.some((line) => /a ticket was not ended and stays charged until it runs out: /.test(line)), `${logger.lines}`)
  })
}

test('a response behind another one of its connection', async (t) => {
  const client = clientFor(t, {url: server.redis})
  const subject = fresh()
  let second = false
  const app = express()
  app.get('/first', (req, res) => t.after(() => res.end()))
  app.get('/second', slots(client, subject), (req, res) => (res.end(), (second = true)))
  const socket = connect(await serve(t, app), '127.0.0.1')
  socket.write('GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n')
  await until('it is served', () => second)
  assert.equal(await isFree(client, subject), false)
  socket.destroy()
  await until('the slot is free', () => isFree(client, subject))
})

test('one listener serves all requests of a connection', async (t) => {
  const warned = []
  const warn = (warning) => warned.push(warning.name)
  process.on('warning', warn)
  t.after(() => process.off('warning', warn))
  const client = clientFor(t, {url: server.redis})
  const counts = []
  const app = express().use(slots(client, fresh()), (req, res) => {
    counts.push(req.socket.listenerCount('close'))
    res.end()
  })
  const port = await serve(t, app)
  const agent = new http.Agent({keepAlive: true, maxSockets: 1})
  t.after(() => agent.destroy())
  while (counts.length < 30) {
    const [res] = await once(http.get({port, agent}), 'response')
    res.resume()
    await once(res, 'end')
  }
  assert.equal(counts.at(-1), counts[0])
  assert.deepEqual(warned, [])
})

test('who is called when a response or its connection ends is called once', () => {
  const calls = []
  const [socket, res] = [new EventEmitter(), new EventEmitter()]
  const req = {socket}
  onceClosed(req, res, () => calls.push('a'))
  onceClosed(req, res, () => calls.push('b'))()
  res.emit('close')
  socket.emit('close')
  assert.deepEqual([calls, res.listenerCount('close')], [['a'], 0])
  onceClosed({socket: {destroyed: true}}, res, () => calls.push('gone'))
  assert.deepEqual(calls, ['a', 'gone'])
})

test('those who wait in line hold up nobody else, and leave it with their connection', async (t) => {
  const client = clientFor(t, {url: server.http})
  const subject = fresh()
  const line = (signal) => client.take({operation: 'line', subject, cost: 1, maxWait: 10_000, signal})
  await line()
  const gone = new AbortController()
  const waiting = Array.from({length: 64}, () => assert.rejects(line(gone.signal), {code: 'aborted'}))
  await until('they wait', () => client.stats().pending === 64)
  assert.equal((await client.take({operation: 'send', subject})).allowed, true)
  gone.abort()
  await Promise.all(waiting)
  assert.equal(client.stats().pending, 0)
  await assert.rejects(line(gone.signal), {code: 'aborted'})
  const at = performance.now()
  assert.equal((await line()).allowed, true)
  assert.ok(performance.now() - at < 5000, 'the line of 64 at 5 a second is gone')
})

test('clients that leave do not stand in line', async (t) => {
  const client = clientFor(t, {url: server.http})
  const subject = fresh()
  let served = 0
  const limiter = rateLimit({client, application: 'default', operation: 'line', identifier: () => subject, maxWait: 10_000})
  const port = await serve(t, express().use(limiter, (req, res) => (served++, res.end())))
  await status(port)
  const sockets = Array.from({length: 20}, () => connect(port, '127.0.0.1').on('error', () => {}))
  for (const socket of sockets) socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await until('they wait', () => client.stats().pending + served >= 18)
  for (const socket of sockets) socket.destroy()
  await until('nobody waits', () => client.stats().pending === 0)
  assert.equal(client.stats().errors, 20 + 1 - served, 'those that were not served were given up')
  const before = served
  assert.equal(await status(port), 200)
  assert.equal(served, before + 1)
})

test('a client that leaves while its turn in a leaky bucket comes is not served', async (t) => {
  const client = clientFor(t, {url: server.redis})
  const {take} = client
  let decided = 0
  t.mock.method(client, 'take', async (request) => {
    const decision = await take.call(client, request)
    decision.details.delayMs = 100
    decided++
    return decision
  })
  const served = []
  const ended = t.mock.method(client, 'endTicket')
  const port = await serve(t, express().use(slots(client, fresh()), (req, res) => (served.push(req.url), res.end())))
  const socket = connect(port, '127.0.0.1')
  socket.write('GET /gone HTTP/1.1\r\nHost: a\r\n\r\n')
  await until('it is decided', () => decided === 1)
  socket.destroy()
  await until('its slot is given back', () => ended.mock.callCount() === 1)
  await ended.mock.calls[0].result
  assert.equal(await status(port, '/next'), 200)
  assert.deepEqual(served, ['/next'])
})

test('requestWasSuccessful that fails, or never says it, keeps the charge and no ticket', async (t) => {
  const logger = listener()
  const client = clientFor(t, {url: server.redis, logger})
  for (const [requestWasSuccessful, line] of [
    [() => { throw null }, /requestWasSuccessful failed, and the request stays charged: .*null/],
    [async () => { throw new Error('mine') }, null],
    [() => new Promise(() => {}), null]
  ]) {
    const subject = fresh()
    const settle = t.mock.method(client, 'settle')
    const limiter = rateLimit({client, application: 'default', operation: 'send', identifier: () => subject, skipSuccessfulRequests: true, requestWasSuccessful})
    const port = await serve(t, express().use(limiter, (req, res) => res.end()))
    await status(port)
    await until('it is settled', () => settle.mock.callCount() > 0)
    assert.equal((await settle.mock.calls[0].result).details.held, true)
    if (line) assert.match(logger.lines.join('\n'), line)
    settle.mock.restore()
  }
})

for (const door of ['redis', 'http']) {
  test(`slots by ${door} are kept as long as the response lasts`, async (t) => {
    const client = clientFor(t, {url: server[door]})
    const request = {operation: 'brief', subject: fresh()}
    const renew = t.mock.method(client, 'renew')
    const port = await serve(t, express().use(slots(client, request.subject, {operation: 'brief'}), (req, res) => res.write('for long')))
    const socket = connect(port, '127.0.0.1')
    t.after(() => socket.destroy())
    socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await once(socket, 'data')
    await until('it was renewed over its TTL of 1 s', () => renew.mock.callCount() >= 6)
    for (const {result} of renew.mock.calls) assert.equal((await result).details.held, true)
    assert.equal((await client.peek(request)).allowed, false)
    socket.destroy()
    await until('the slot is free', async () => (await client.peek(request)).allowed)
    const renewed = renew.mock.callCount()
    await assert.rejects(until('it is renewed', () => renew.mock.callCount() > renewed, 600))
  })

  for (const kind of ['release', 'settle']) {
    test(`what ${kind} could not say by ${door} is said when the server is back`, async (t) => {
      const own = await startOnSockets(t)
      const client = clientFor(t, {url: own[door], timeout: 100, breaker: {failures: 1, cooldown: 50}})
      await until('there is a connection', () => client.ping().then(() => true, () => false))
      const {ticket} = await client.reserve({operation: 'send', subject: 'a', cost: 3})
      const ended = t.mock.method(client, kind)
      own.freeze()
      const real = kind === 'settle' ? [{cost: 1}] : []
      for (let i = 0; i < 3; i++) await assert.rejects(client[kind](ticket, ...real))
      await until('it was tried again', () => ended.mock.callCount() > 3)
      own.thaw()
      const left = async () => (await client.peek({operation: 'send', subject: 'a'})).remaining
      await until('it is so', async () => (await left()) === (kind === 'settle' ? 4 : 5))
    })
  }

  test(`a ticket by ${door} that the server does not take is not tried again`, async (t) => {
    const client = clientFor(t, {url: server[door]})
    const release = t.mock.method(client, 'release')
    await assert.rejects(client.release('none'), {code: 'invalid_request'})
    await client.close()
    assert.equal(release.mock.callCount(), 1)
  })
}

test('slots that are lost are not renewed for ever', async (t) => {
  const logger = listener()
  const client = clientFor(t, {url: server.redis, logger})
  const renew = t.mock.method(client, 'renew')
  const {ticket} = await client.take({operation: 'slots', subject: fresh()})
  await client.release(ticket)
  t.after(client.keepTicket(ticket, 5))
  await until('it is told', () => logger.lines.length > 0)
  assert.match(logger.lines[0], /slots were not held any more/)
  await assert.rejects(until('it is renewed', () => renew.mock.callCount() > 1, 200))
})

test('close waits for tickets that are being ended', async (t) => {
  const client = new Headgate({url: server.redis, timeout: 5000, logger: listener()})
  const watcher = clientFor(t, {url: server.redis})
  const subject = fresh()
  const limiter = rateLimit({client, application: 'default', operation: 'send', identifier: () => subject, skipSuccessfulRequests: true, requestWasSuccessful: () => delay(200).then(() => true)})
  const s = http.createServer((req, res) => limiter(req, res, () => res.writeHead(200, {connection: 'close'}).end())).listen(0, '127.0.0.1')
  await once(s, 'listening')
  assert.equal(await status(s.address().port), 200)
  s.close()
  await once(s, 'close')
  await client.close()
  assert.equal((await watcher.peek({operation: 'send', subject})).remaining, 5)
})

test('close waits for tickets at most for the time-out', async (t) => {
  const client = new Headgate({url: server.redis, timeout: 300, logger: listener()})
  const port = await serve(t, express().use(slots(client, fresh()), (req, res) => res.write('for ever')))
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await once(socket, 'data')
  const at = performance.now()
  await client.close()
  assert.ok(performance.now() - at < 3000)
})

test('close does not wait for who stands in line', async () => {
  const client = new Headgate({url: server.http, timeout: 300, logger: listener()})
  const line = () => client.take({operation: 'line', subject: 'closing', maxWait: 60_000, cost: 1})
  while ((await client.take({operation: 'line', subject: 'closing'})).allowed);
  const asked = Array.from({length: 20}, line)
  const at = performance.now()
  await client.close()
  assert.ok(performance.now() - at < 2000, `${performance.now() - at} ms`)
  const codes = (await Promise.all(asked)).map((d) => d.error?.code)
  assert.ok(codes.filter((code) => code === 'timeout').length >= 15, `${codes}`)
})
