import assert from 'node:assert/strict'
import {once} from 'node:events'
import http from 'node:http'
import {after, before, describe, mock, test} from 'node:test'
import connect from 'connect'
import express from 'express'
import express4 from 'express4'
import {Headgate, HeadgateError, rateLimit} from 'headgate'
import {atEnd, listener, startServer} from '../testing/server.js'

const suite = atEnd(after)
let server
let client
before(async () => {
  server = await startServer(suite)
  client = new Headgate({url: server.redis, timeout: 5000})
  suite.after(() => client.close())
})

/** Listens with a handler of (req, res) and returns what asks it. */
async function serve(t, handler) {
  const s = http.createServer(handler)
  s.listen(0, '127.0.0.1')
  await once(s, 'listening')
  t.after(() => (s.close(), s.closeAllConnections()))
  return async (path = '/', init = {}) => {
    const res = await fetch(`http://127.0.0.1:${s.address().port}${path}`, init)
    const text = await res.text()
    const json = /json/.test(res.headers.get('content-type') ?? '')
    return {status: res.status, body: json ? JSON.parse(text) : text, type: res.headers.get('content-type'), header: (name) => res.headers.get(name)}
  }
}

// Every test has names of its own, so that no bucket is another's.
let names = 0
const fresh = () => `test-${names++}`

/** An application of Express 5 with one limiter, which answers what it was told of limits. */
async function limited(t, options, {trust, status = 200} = {}) {
  const app = express()
  if (trust) app.set('trust proxy', trust)
  const named = 'application' in options || 'name' in options ? {} : {name: fresh()}
  app.use(rateLimit({client, ...named, ...options}))
  app.use((req, res) => res.status(typeof status === 'function' ? status(req) : status).json({rateLimit: req.rateLimit, info: req.rateLimitInfo}))
  app.use((err, req, res, next) => res.status(599).json({code: err.code, message: err.message}))
  return serve(t, app)
}

const from = (ip) => ({headers: {'x-forwarded-for': ip}})

describe('frameworks', () => {
  const hello = (req, res) => res.end('hello')
  const frameworks = {
    'Express 5': (limiter) => express().use(limiter).use(hello),
    'Express 4': (limiter) => express4().use(limiter).use(hello),
    connect: (limiter) => connect().use(limiter).use(hello),
    'node:http': (limiter) => (req, res) => limiter(req, res, (err) => (err ? res.writeHead(500).end(err.message) : hello(req, res)))
  }
  for (const [name, make] of Object.entries(frameworks)) {
    test(name, async (t) => {
      const ask = await serve(t, make(rateLimit({client, name: fresh(), requestsPerMinute: 2})))
      assert.deepEqual(await ask().then((r) => [r.status, r.body, r.header('ratelimit-policy')?.replace(/"test-\d+"/, '"n"')]), [200, 'hello', '"n";q=2;w=60'])
      await ask()
      const refused = await ask()
      assert.deepEqual([refused.status, refused.type], [429, 'application/problem+json'])
      const broken = await serve(t, make(rateLimit({client, identifier: () => undefined})))
      const err = await broken()
      assert.equal(err.status, 500)
      assert.match(err.body, /identifier: gave undefined/)
    })
  }
})

test('what the program and the client are told', async (t) => {
  const ask = await limited(t, {name: 'a "quoted" \\ name', requestsPerMinute: 1, capacity: 3, legacyHeaders: true})
  const at = Date.now()
  const first = await ask()
  const {rateLimit: told, info} = first.body
  assert.deepEqual([told.limit, told.used, told.remaining, told.key], [3, 1, 2, '127.0.0.1'])
  const resetTime = Date.parse(told.resetTime)
  assert.ok(resetTime >= at + 59_000 && resetTime <= Date.now() + 60_000)
  assert.deepEqual([info.allowed, info.reason, info.limits.length], [true, 'ok', 1])
  assert.equal(first.header('ratelimit-policy'), '"a \\"quoted\\" \\\\ name";q=3;w=180')
  assert.equal(first.header('ratelimit'), '"a \\"quoted\\" \\\\ name";r=2;t=120')
  assert.deepEqual([first.header('x-ratelimit-limit'), first.header('x-ratelimit-remaining')], ['3', '2'])
  assert.ok(Math.abs(Number(first.header('x-ratelimit-reset')) - resetTime / 1000) <= 1)
  assert.equal(first.header('retry-after'), null)
  await ask()
  const last = await ask()
  assert.match(last.header('ratelimit'), /;r=0;t=60$/)
  const refused = await ask()
  assert.deepEqual([refused.status, refused.header('retry-after'), refused.header('headgate-reason'), refused.header('cache-control')], [429, '60', 'rate_limited', 'no-store'])
  assert.match(refused.header('ratelimit'), /;r=0;t=60$/)
  assert.deepEqual(refused.body, {type: 'https://iana.org/assignments/http-problem-types#quota-exceeded', title: 'Quota exceeded', status: 429, detail: 'too many requests; try again in 60 s', 'violated-policies': ['a "quoted" \\ name'], retry_after_ms: 60_000})
})

test('conventions of header fields', async (t) => {
  const fields = async (options) => {
    const r = await (await limited(t, {requestsPerMinute: 6, ...options}))()
    return ['ratelimit-policy', 'ratelimit', 'ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset', 'x-ratelimit-limit'].map(r.header)
  }
  assert.deepEqual(await fields({standardHeaders: 'draft-8', name: 'eight'}), ['"eight";q=6;w=60', '"eight";r=5;t=50', null, null, null, null])
  assert.deepEqual(await fields({standardHeaders: 'draft-7'}), ['6;w=60', 'limit=6, remaining=5, reset=10', null, null, null, null])
  for (const standardHeaders of ['draft-6', true]) assert.deepEqual(await fields({standardHeaders}), ['6;w=60', null, '6', '5', '10', null])
  assert.deepEqual(await fields({standardHeaders: false}), [null, null, null, null, null, null])
  assert.deepEqual(await fields({standardHeaders: false, legacyHeaders: true}), [null, null, null, null, null, '6'])
})

test('limiters behind each other', async (t) => {
  const app = express()
  const [a, b] = [fresh(), fresh()]
  app.use(rateLimit({client, name: a, requestsPerMinute: 10}), rateLimit({client, name: b, requestsPerMinute: 1, requestPropertyName: 'strict'}))
  app.get('/', (req, res) => res.json([req.rateLimit.limit, req.strict.limit]))
  const ask = await serve(t, app)
  const r = await ask()
  assert.deepEqual(r.body, [10, 1])
  assert.equal(r.header('ratelimit-policy'), `"${a}";q=10;w=60, "${b}";q=1;w=60`)
  assert.equal((await ask()).status, 429)
})

test('each limiter has buckets of its own, which its equals in other processes share', async (t) => {
  const other = new Headgate({url: server.redis})
  t.after(() => other.close())
  const spent = async (options) => (await (await limited(t, {identifier: () => 'them', ...options}))()).body.rateLimit.used
  const numbers = {name: undefined, windowMs: 3_600_000}
  assert.equal(await spent({...numbers, limit: 11}), 1)
  assert.equal(await spent({...numbers, limit: 11}), 1)
  assert.equal(await spent({...numbers, limit: 11, client: other}), 2)
  assert.equal(await spent({...numbers, limit: 12}), 1)
  assert.equal(await spent({...numbers, limit: 11, capacity: 12}), 1)
  assert.equal(await spent({...numbers, limit: () => 100}), 1)
  assert.equal(await spent({...numbers, limit: () => 3}), 1)
  assert.equal(await spent({name: 'one', windowMs: 3_600_000, limit: 12}), 1)
  assert.equal(await spent({name: 'one', windowMs: 3_600_000, limit: 13}), 3)
})

test('a limiter that is made for each request lets nobody pass by that', async (t) => {
  const logger = {warn: mock.fn()}
  const own = new Headgate({url: server.redis, logger})
  t.after(() => own.close())
  const app = express()
  app.use((req, res, next) => rateLimit({client: own, windowMs: 3_600_000, limit: 7, identifier: () => 'all'})(req, res, next))
  app.use((req, res) => res.end())
  const ask = await serve(t, app)
  let passed = 0
  for (let i = 0; i < 120; i++) passed += (await ask('/')).status === 200
  assert.equal(passed, 99 + 7)
  assert.match(logger.warn.mock.calls[0].arguments[0], /more than 100 limiters of 7\/7\/3600000/)
})

describe('who is limited', () => {
  test('the address, as Express finds it', async (t) => {
    const ask = await limited(t, {requestsPerMinute: 1}, {trust: 'loopback'})
    const used = async (ip) => (await ask('/', from(ip))).status
    assert.deepEqual([await used('192.0.2.1'), await used('192.0.2.1'), await used('192.0.2.2')], [200, 429, 200])
    assert.deepEqual([await used('::ffff:192.0.2.1'), await used('192.0.2.2:4711')], [429, 429])
    assert.deepEqual([await used('2001:db8:1:2::1'), await used('2001:db8:1:2:ffff::9'), await used('2001:db8:1:3::1')], [200, 429, 200])
  })

  test('without trust proxy what the client says of itself is nothing', async (t) => {
    const ask = await limited(t, {requestsPerMinute: 1})
    assert.deepEqual([(await ask('/', from('192.0.2.1'))).status, (await ask('/', from('192.0.2.2'))).status], [200, 429])
  })

  test('a proxy that nobody minds, and one that is believed whoever it is, are warned of once', async (t) => {
    const logger = {warn: mock.fn()}
    const own = new Headgate({url: server.redis, logger})
    t.after(() => own.close())
    const lines = () => logger.warn.mock.calls.map((c) => c.arguments[0])
    const ask = await limited(t, {client: own})
    await ask()
    assert.deepEqual(lines(), [])
    for (let i = 0; i < 2; i++) await ask('/', from('192.0.2.1'))
    assert.match(lines().join(), /^headgate: X-Forwarded-For came and trust proxy of Express is not set[^]*address$/)
    logger.warn.mock.resetCalls()
    const loopback = await limited(t, {client: own}, {trust: 'loopback'})
    await loopback('/', from('192.0.2.1'))
    assert.deepEqual(lines(), [])
    const another = new Headgate({url: server.redis, logger})
    t.after(() => another.close())
    const all = await limited(t, {client: another}, {trust: true})
    for (let i = 0; i < 2; i++) await all('/', from('192.0.2.1'))
    assert.equal(lines().length, 1)
    assert.match(lines()[0], /trust proxy is true/)
  })

  test('networks', async (t) => {
    const key = async (ipv6Subnet) => (await (await limited(t, {ipv6Subnet}, {trust: 'loopback'}))('/', from('2001:db8:1234:5678::1'))).body.rateLimit.key
    assert.equal(await key(undefined), '2001:db8:1234:5678::/64')
    assert.equal(await key(56), '2001:db8:1234:5600::/56')
    assert.equal(await key(false), '2001:db8:1234:5678:0:0:0:1')
    assert.equal(await key(async () => 48), '2001:db8:1234::/48')
  })

  test('no address is an error, and nobody passes', async (t) => {
    const ask = await limited(t, {}, {trust: 'loopback'})
    const r = await ask('/', from('unknown'))
    assert.deepEqual([r.status, r.body.code], [599, 'no_address'])
    assert.match(r.body.message, /"unknown": where there is none, say with identifier/)
  })

  test('an identifier', async (t) => {
    for (const name of ['identifier', 'keyGenerator']) {
      const ask = await limited(t, {requestsPerMinute: 1, [name]: async (req, res) => res && req.headers['x-id']})
      const status = async (id) => (await ask('/', {headers: {'x-id': id}})).status
      assert.deepEqual([await status('a'), await status('a'), await status('b')], [200, 429, 200])
      const none = await ask('/')
      assert.deepEqual([none.status, /must give a string that is not empty/.test(none.body.message)], [599, true])
    }
    const number = await limited(t, {identifier: () => 7})
    assert.equal((await number()).body.rateLimit.key, '7')
  })

  test('no string makes two meet', async (t) => {
    const seen = new Set()
    const throttle = t.mock.method(Headgate.prototype, 'throttle')
    const values = ['a', 'a:b', 'a%3Ab', 'a%', 'a%25', '%0D', '\r', '\n', '\0', 'ü', 'x'.repeat(600), 'x'.repeat(601), 'ü'.repeat(300), '\ufffd', '\ud800', '\ud801']
    const ask = await limited(t, {identifier: (req) => values[Number(req.headers['x-n'])], name: 'a:id'})
    const plain = await limited(t, {identifier: (req) => values[Number(req.headers['x-n'])], name: 'a'})
    for (const one of [ask, plain]) for (const n of values.keys()) assert.equal((await one('/', {headers: {'x-n': String(n)}})).body.rateLimit.used, 1)
    for (const {arguments: [key]} of throttle.mock.calls) {
      assert.ok(Buffer.byteLength(key) <= 512)
      seen.add(key)
    }
    assert.equal(seen.size, 2 * values.length)
  })

  test('half a character is somebody by all doors', async (t) => {
    const overHTTP = new Headgate({url: server.http, timeout: 5000})
    t.after(() => overHTTP.close())
    for (const half of ['\ud800', '\ud801']) {
      for (const options of [{name: 'half'}, {application: 'default', operation: 'send'}]) {
        const lefts = []
        for (const by of [client, overHTTP]) lefts.push((await (await limited(t, {...options, client: by, identifier: () => half}))()).body.rateLimit.remaining)
        assert.equal(lefts[1], lefts[0] - 1)
      }
    }
  })
})

test('skip', async (t) => {
  const ask = await limited(t, {requestsPerMinute: 1, skip: async (req) => req.url === '/health'})
  await ask()
  assert.deepEqual([(await ask('/health')).status, (await ask('/')).status], [200, 429])
  assert.equal((await ask('/health')).body.rateLimit, undefined)
})

test('weight', async (t) => {
  const ask = await limited(t, {requestsPerMinute: 10, weight: async (req) => Number(req.headers['x-weight'])})
  const used = async (weight) => (await ask('/', {headers: {'x-weight': String(weight)}})).body
  assert.equal((await used(4)).rateLimit.used, 4)
  assert.equal((await used(0)).rateLimit.used, 4)
  const never = await ask('/', {headers: {'x-weight': '11'}})
  assert.deepEqual([never.status, never.header('retry-after'), never.body.type], [422, null, 'urn:headgate:problem:cost_exceeds_limit'])
  assert.match((await used('x')).message, /^cost/)
  const fixed = await limited(t, {requestsPerMinute: 10, weight: 3})
  assert.equal((await fixed()).body.rateLimit.used, 3)
})

test('limits by request', async (t) => {
  const ask = await limited(t, {windowMs: 3_600_000, limit: async (req) => Number(req.headers['x-limit']), identifier: (req) => req.headers['x-limit']})
  for (const limit of [3, 30]) assert.equal((await ask('/', {headers: {'x-limit': String(limit)}})).body.rateLimit.limit, limit)
  assert.match((await ask('/', {headers: {'x-limit': '-1'}})).body.message, /^count: -1/)
  const capacity = await limited(t, {limit: 5, capacity: () => 9})
  assert.equal((await capacity()).body.rateLimit.limit, 9)
})

test('a limit of 0 refuses all, and asks nobody', async (t) => {
  const own = new Headgate({url: 'redis://127.0.0.1:1', onError: 'open', logger: listener()})
  t.after(() => own.close())
  const seen = []
  for (const options of [{limit: 0}, {max: 0}, {requestsPerMinute: 0}, {limit: 0, capacity: 0}, {limit: () => 0}, {limit: async () => 0, capacity: 5}]) {
    const r = await (await limited(t, {...options, name: 'none', client: own, onLimitExceeded: (req, res, decision) => seen.push([decision.reason, req.rateLimit.limit, req.rateLimit.remaining])}))()
    assert.deepEqual([r.status, r.header('retry-after'), r.header('headgate-reason'), r.header('ratelimit-policy'), r.header('ratelimit')], [429, null, 'rate_limited', '"none";q=0;w=60', '"none";r=0;t=60'])
    assert.deepEqual(r.body, {type: 'https://iana.org/assignments/http-problem-types#quota-exceeded', title: 'Quota exceeded', status: 429, detail: 'too many requests', 'violated-policies': ['none']})
  }
  assert.deepEqual(seen, Array(6).fill(['rate_limited', 0, 0]))
  assert.equal(own.stats().calls, 0)
  const older = await (await limited(t, {limit: 0, client: own, windowMs: 5000, standardHeaders: 'draft-7', legacyHeaders: true}))()
  assert.deepEqual([older.header('ratelimit'), older.header('x-ratelimit-remaining')], ['limit=0, remaining=0, reset=5', '0'])
})

test('windows of milliseconds', async (t) => {
  const ask = await limited(t, {limit: 2, windowMs: 1500})
  const r = await ask()
  assert.deepEqual([r.body.rateLimit.limit, r.header('ratelimit-policy').split(';w=')[1]], [2, '2'])
})

describe('refusals', () => {
  const refused = async (t, options) => {
    const ask = await limited(t, {requestsPerMinute: 1, ...options})
    await ask()
    return ask()
  }

  test('message and statusCode', async (t) => {
    for (const [message, type, body] of [
      ['slow down', 'text/plain; charset=utf-8', 'slow down'],
      [{error: 'slow'}, 'application/json', {error: 'slow'}],
      [async (req) => ({error: req.url}), 'application/json', {error: '/'}]
    ]) {
      const r = await refused(t, {message, statusCode: 420})
      assert.deepEqual([r.status, r.type, r.body, r.header('retry-after')], [420, type, body, '60'])
    }
    assert.equal((await refused(t, {statusCode: 503})).body.status, 503)
  })

  test('handler', async (t) => {
    const r = await refused(t, {
      handler: async (req, res, next, options) => res.status(options.statusCode).send(`${options.limit} ${req.rateLimit.used} ${typeof next}`)
    })
    assert.deepEqual([r.status, r.body, r.header('retry-after')], [429, '1 1 function', '60'])
    const own = await refused(t, {statusCode: 420, handler: (req, res, next, options) => res.send(options.message)})
    assert.deepEqual([own.status, own.body], [200, 'Too many requests'], 'the status is its own, as with express-rate-limit')
    const passes = await refused(t, {handler: (req, res, next) => next()})
    assert.equal(passes.status, 200)
  })

  test('onLimitExceeded', async (t) => {
    const seen = []
    const r = await refused(t, {onLimitExceeded: async (req, res, decision) => seen.push([req.url, decision.reason])})
    assert.deepEqual([r.status, seen], [429, [['/', 'rate_limited']]])
    const own = await refused(t, {onLimitExceeded: (req, res) => res.status(403).json('mine'), message: 'theirs'})
    assert.deepEqual([own.status, own.body], [403, 'mine'])
  })

  test('what is thrown and is no error lets nobody pass', async (t) => {
    for (const name of ['skip', 'identifier', 'weight', 'limit', 'handler', 'message', 'onLimitExceeded']) {
      for (const reason of [undefined, null, 'route', 'router', 0]) {
        for (const given of [() => Promise.reject(reason), () => { throw reason }]) {
          const r = await refused(t, {...(name === 'limit' ? {requestsPerMinute: undefined} : {}), [name]: given})
          assert.equal(r.status, 599, `${name} ${reason}`)
          assert.match(r.body.message, /^a function of rateLimit threw what is no error: /)
        }
      }
    }
  })

  test('what functions throw goes to next', async (t) => {
    const fail = async () => {
      throw new Error('mine')
    }
    for (const name of ['skip', 'identifier', 'weight', 'limit', 'handler', 'message', 'onLimitExceeded']) {
      const r = await refused(t, {...(name === 'limit' ? {requestsPerMinute: undefined} : {}), [name]: fail})
      assert.deepEqual([r.status, r.body.message], [599, 'mine'], name)
    }
  })
})

describe('by the policy', () => {
  const of = (operation, more) => ({application: 'default', operation, ...more})
  const identifier = (req) => req.headers['x-id'] ?? 'nobody'
  const by = (id) => ({headers: {'x-id': id}})

  test('operation and plan', async (t) => {
    const id = fresh()
    const ask = await limited(t, of('send', {identifier, plan: async (req) => req.headers['x-plan']}))
    const r = await ask('/', by(id))
    assert.deepEqual([r.body.rateLimit.limit, r.body.info.details.plan, r.header('ratelimit-policy')], [5, 'free', '"send/burst";q=5;w=3600'])
    assert.deepEqual([r.body.info.details.rule, r.body.info.details.subject], ['send', id])
    const paid = await ask('/', {headers: {'x-id': id, 'x-plan': 'paid'}})
    assert.equal(paid.body.rateLimit.limit, 50)
    const named = await limited(t, of(async () => 'send', {identifier, plan: 'paid', weight: 7}))
    assert.equal((await named('/', by(fresh()))).body.rateLimit.used, 7)
    const unknown = await limited(t, of('send', {application: 'nowhere'}))
    assert.deepEqual((await unknown()).body.code, 'not_found')
  })

  test('RateLimit and refusals are those of the other doors', async (t) => {
    const upstream = http.createServer((req, res) => res.end('passed'))
    upstream.listen(0, '127.0.0.1')
    await once(upstream, 'listening')
    t.after(() => (upstream.close(), upstream.closeAllConnections()))
    const own = await startServer(t, {
      doors: {http: '127.0.0.1:0', resp: '127.0.0.1:0', proxy: '127.0.0.1:0'},
      env: {HEADGATE_UPSTREAM: `http://127.0.0.1:${upstream.address().port}`}
    })
    // Each has an address of its own to be limited by: their budgets are equal, and not one.
    const doors = {
      forward: (n) => fetch(`${own.http}/v1/forward-auth/default`, {headers: {'x-original-method': 'POST', 'x-original-uri': '/v1/things', 'x-real-ip': `192.0.2.${n}`}}),
      proxy: (n) => fetch(`http://${own.addresses.proxy}/v1/things`, {method: 'POST', headers: {'x-forwarded-for': `192.0.2.${n}`}})
    }
    for (const door of ['redis', 'http']) {
      const c = new Headgate({url: own[door], timeout: 5000})
      t.after(() => c.close())
      const app = express().set('trust proxy', 'loopback')
      app.use(rateLimit({client: c, application: 'default'}), (req, res) => res.end('passed'))
      const s = app.listen(0, '127.0.0.1')
      await once(s, 'listening')
      t.after(() => (s.close(), s.closeAllConnections()))
      doors[door] = (n) => fetch(`http://127.0.0.1:${s.address().port}/v1/things`, {method: 'POST', headers: {'x-forwarded-for': `192.0.2.${n}`}})
    }
    const names = Object.keys(doors)
    for (const standing of ['r=2;t=2400', 'r=1;t=1200']) {
      for (const [n, name] of names.entries()) {
        const r = await doors[name](n)
        assert.deepEqual(
          [r.ok, r.headers.get('ratelimit-policy'), r.headers.get('ratelimit')],
          [true, '"path/w";q=3;w=3600, "path/d";q=50;w=86400', `"path/w";${standing}, "path/d";${standing.startsWith('r=2') ? 'r=49;t=84672' : 'r=48;t=82944'}`],
          name
        )
      }
    }
    const bodies = {}
    for (const [n, name] of names.entries()) {
      await doors[name](n)
      const r = await doors[name](n)
      if (name === 'forward') continue // it leaves the body to the proxy
      const body = await r.json()
      const wait = body.retry_after_ms
      assert.ok(wait > 0 && wait <= 1_200_000 && Math.ceil(wait / 1000) === Number(r.headers.get('retry-after')), `${name}: ${wait}`)
      assert.match(r.headers.get('ratelimit'), new RegExp(`^"path/w";r=0;t=${Math.ceil(wait / 1000)}, `))
      bodies[name] = JSON.stringify(body).replace(`in ${Math.ceil(wait / 1000)} s`, 'in N s').replace(String(wait), 'N')
    }
    for (const name of ['redis', 'http']) assert.equal(bodies[name], bodies.proxy)
    assert.match(bodies.redis, /"detail":"too many requests; try again in N s","violated-policies":\["path\/w"\],"retry_after_ms":N\}$/)
  })

  test('method and path', async (t) => {
    const app = express()
    app.use('/v1', rateLimit({client, application: 'default', identifier}))
    app.use((req, res) => res.json(req.rateLimitInfo.details?.rule ?? req.rateLimitInfo.reason))
    const ask = await serve(t, app)
    const id = fresh()
    assert.equal((await ask('/v1/things?x=1', {method: 'POST', ...by(id)})).body, 'path')
    assert.equal((await ask('/v1/things', by(id))).body, '')
    assert.equal((await ask(`/v1/things?${'x'.repeat(9000)}`, {method: 'POST', ...by(id)})).body, 'path')
  })

  test('what the rule has to say', async (t) => {
    const ask = await limited(t, of('polite', {identifier}))
    const id = fresh()
    assert.equal((await ask('/', by(id))).body.info.message, null)
    const refused = await ask('/', by(id))
    assert.deepEqual([refused.status, refused.body.detail], [429, 'Slow "down"'])
  })

  test('addresses, and who may not pass', async (t) => {
    const ask = await limited(t, of('send'), {trust: 'loopback'})
    const r = await ask('/', from('2001:db8:7::9'))
    assert.equal(r.body.info.details.subject, '2001:db8:7::/64')
    const denied = await ask('/', from('203.0.113.5'))
    assert.deepEqual([denied.status, denied.body.type], [403, 'urn:headgate:problem:deny_listed'])
  })

  test('attributes', async (t) => {
    const ask = await limited(t, of('org', {identifier, attributes: async () => ({org: fresh()})}))
    const r = await ask('/', by(fresh()))
    assert.equal(r.body.info.details.boundBy, 'org/all')
    assert.equal(r.header('ratelimit-policy'), '"org/own";q=9;w=3600', 'the budget of others is not told')
  })

  test('long subjects', async (t) => {
    const ask = await limited(t, of('send', {identifier}))
    const r = await ask('/', by('x'.repeat(2000)))
    assert.match(r.body.info.details.subject, /^sha256:[\w-]{43}$/)
  })

  test('slots are free when the response has ended', async (t) => {
    const id = fresh()
    let finish
    const app = express()
    app.use(rateLimit({client, ...of('slots', {identifier})}))
    app.get('/slow', (req, res) => (finish = () => res.end()))
    app.get('/', (req, res) => res.end())
    const ask = await serve(t, app)
    const release = t.mock.method(Headgate.prototype, 'release')
    const slow = ask('/slow', by(id))
    while (!finish) await new Promise((resolve) => setImmediate(resolve))
    const refused = await ask('/', by(id))
    assert.deepEqual([refused.status, refused.header('headgate-reason')], [429, 'concurrency_exceeded'])
    finish()
    await slow
    while (release.mock.callCount() === 0) await new Promise((resolve) => setImmediate(resolve))
    await release.mock.calls[0].result
    assert.equal((await ask('/', by(id))).status, 200)
  })

  test('slots of clients that leave before the decision', async (t) => {
    const id = fresh()
    let left
    const ask = await serve(
      t,
      express().use(
        (req, res, next) => (res.once('close', () => left()), next()),
        rateLimit({client, ...of('slots', {identifier})}),
        (req, res) => res.end()
      )
    )
    server.freeze()
    const leaves = new Promise((resolve) => (left = resolve))
    const controller = new AbortController()
    const asked = client.stats().calls
    const release = t.mock.method(Headgate.prototype, 'release')
    const gone = ask('/', {...by(id), signal: controller.signal})
    while (client.stats().calls === asked) await new Promise((resolve) => setImmediate(resolve))
    controller.abort()
    await Promise.all([assert.rejects(gone, {name: 'AbortError'}), leaves])
    server.thaw()
    while (release.mock.callCount() === 0) await new Promise((resolve) => setImmediate(resolve))
    assert.equal((await release.mock.calls[0].result).details.held, true)
  })

  test('leaky buckets shape', async (t) => {
    const waits = new Headgate({url: server.http, timeout: 5000})
    t.after(() => waits.close())
    for (const more of [{}, {skipFailedRequests: true}]) {
      const id = fresh()
      const ask = await limited(t, of('shape', {identifier, maxWait: 5000, client: waits, ...more}))
      await ask('/', by(id))
      const at = performance.now()
      const r = await ask('/', by(id))
      assert.equal(r.status, 200)
      const {delayMs, waitedMs} = r.body.info.details
      assert.ok(delayMs + waitedMs > 0 && performance.now() - at >= delayMs + waitedMs - 1)
      const refused = await limited(t, of('shape', {identifier}))
      assert.equal((await refused('/', by(id))).status, 429, 'without maxWait nobody waits')
    }
  })

  for (const [option, charged] of [
    ['skipSuccessfulRequests', {200: 0, 404: 1}],
    ['skipFailedRequests', {200: 1, 404: 0}]
  ]) {
    test(option, async (t) => {
      const ask = await limited(t, of('send', {identifier, [option]: true}), {status: (req) => Number(req.headers['x-status'])})
      for (const status of [200, 404]) {
        const id = fresh()
        const settle = t.mock.method(Headgate.prototype, charged[status] ? 'settle' : 'release')
        assert.equal((await ask('/', {headers: {'x-id': id, 'x-status': String(status)}})).body.rateLimit.remaining, 4)
        while (settle.mock.callCount() === 0) await new Promise((resolve) => setImmediate(resolve))
        assert.equal((await settle.mock.calls[0].result).details.held, true)
        assert.equal((await client.peek({operation: 'send', subject: id})).remaining, 5 - charged[status])
        settle.mock.restore()
      }
    })
  }

  test('requestWasSuccessful', async (t) => {
    const ask = await limited(t, of('send', {identifier, skipSuccessfulRequests: true, requestWasSuccessful: async (req, res) => res.statusCode === 418}), {status: 418})
    const id = fresh()
    const release = t.mock.method(Headgate.prototype, 'release')
    await ask('/', by(id))
    while (release.mock.callCount() === 0) await new Promise((resolve) => setImmediate(resolve))
    await release.mock.calls[0].result
    assert.equal((await client.peek({operation: 'send', subject: id})).remaining, 5)
  })
})

describe('without a server', () => {
  const away = (t, options) => {
    const c = new Headgate({url: 'redis://127.0.0.1:1', timeout: 50, logger: listener(), ...options})
    t.after(() => c.close())
    return c
  }

  test('the client says what happens', async (t) => {
    const closed = await (await limited(t, {client: away(t), message: 'too many', onLimitExceeded: () => assert.fail('this is no limit')}))()
    assert.deepEqual([closed.status, closed.type, closed.header('retry-after'), closed.header('headgate-degraded'), closed.header('headgate-reason')], [503, 'application/problem+json', '1', 'closed', 'store_unavailable'])
    assert.equal(closed.body.type, 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity')
    const open = await (await limited(t, {client: away(t, {onError: 'open'})}))()
    assert.deepEqual([open.status, open.header('headgate-degraded'), open.header('ratelimit')], [200, 'open', null])
    assert.deepEqual(open.body.rateLimit, {limit: null, used: null, remaining: null, resetTime: null, key: '127.0.0.1'})
    const thrown = await (await limited(t, {client: away(t, {onError: 'throw'})}))()
    assert.deepEqual([thrown.status, thrown.body.code], [599, 'disconnected'])
  })

  test('or the middleware', async (t) => {
    for (const [options, status] of [
      [{onStoreError: 'open'}, 200],
      [{onStoreError: 'closed'}, 503],
      [{passOnStoreError: true}, 200],
      [{passOnStoreError: false}, 503],
      [{onStoreError: async (err, req, res) => (err instanceof HeadgateError && req.url === '/' && res ? 'open' : 'closed')}, 200],
      [{onStoreError: () => 'closed'}, 503],
      [{onStoreError: () => true}, 599]
    ]) {
      const c = away(t, {onError: status === 200 ? 'closed' : 'open'})
      assert.equal((await (await limited(t, {client: c, ...options}))()).status, status, JSON.stringify(options))
      const stats = c.stats()
      assert.deepEqual([stats.failedOpen, stats.failedClosed], [status === 200 ? 1 : 0, status === 503 ? 1 : 0])
    }
  })

  test('a mistake in the configuration lets nobody pass', async (t) => {
    const c = new Headgate({url: server.redis, timeout: 5000, onError: 'open'})
    t.after(() => c.close())
    const r = await (await limited(t, {client: c, application: 'nowhere', onStoreError: () => 'open'}))()
    assert.deepEqual([r.status, r.body.code], [599, 'not_found'])
  })
})

test('the usual client is one for all', (t) => {
  const one = rateLimit()
  assert.equal(one.client, rateLimit({requestsPerMinute: 5}).client)
  assert.equal(rateLimit({client}).client, client)
  t.after(() => one.client.close())
})

test('bad options are errors that say what to write', () => {
  for (const [options, message] of [
    [null, /^options: must be an object/],
    [{requestPerMinute: 1}, /^requestPerMinute: unknown; there are requestsPerMinute,/],
    [{requestsPerMinute: -1}, /^requestsPerMinute: -1: must be a whole number from 0, or a function/],
    [{limit: 0, capacity: 5}, /^capacity: with a limit of 0 nothing passes; leave it out/],
    [{limit: 5, capacity: 0}, /^capacity: 0: nothing would pass; write a limit of 0/],
    [{requestsPerMinute: 1.5}, /^requestsPerMinute/],
    [{requestsPerMinute: 1, limit: 1}, /^requestsPerMinute and limit: two names of one thing/],
    [{limit: 1, max: 1}, /^limit and max/],
    [{requestsPerMinute: 1, windowMs: 1000}, /^windowMs: requestsPerMinute is per minute; with windowMs write limit/],
    [{windowMs: 0}, /^windowMs: 0/],
    [{capacity: -1}, /^capacity: -1/],
    [{identifier: 'default'}, /^identifier: default: .* is name$/],
    [{identifier: () => 1, keyGenerator: () => 1}, /^identifier and keyGenerator/],
    [{identifier: () => 1, ipv6Subnet: 56}, /^ipv6Subnet: identifier says who is limited/],
    [{ipv6Subnet: 128}, /^ipv6Subnet: 128: must be a number of bits from 32 to 64/],
    [{skip: true}, /^skip: true: must be a function/],
    [{weight: -1}, /^weight: -1/],
    [{message: null}, /^message/],
    [{message: 5}, /^message/],
    [{statusCode: 200}, /^statusCode: 200/],
    [{handler: 'x'}, /^handler/],
    [{onStoreError: 'ignore'}, /^onStoreError: ignore: must be 'open', 'closed', or a function/],
    [{onStoreError: 'open', passOnStoreError: true}, /^onStoreError and passOnStoreError/],
    [{standardHeaders: 'draft-9'}, /^standardHeaders: draft-9/],
    [{legacyHeaders: 'yes'}, /^legacyHeaders/],
    [{client: {}}, /^client: .*must be a Headgate/],
    [{name: 'a\nb'}, /^name/],
    [{requestPropertyName: ''}, /^requestPropertyName/],
    [{requestPropertyName: '__proto__'}, /^requestPropertyName: __proto__: must be the name of a property, and none that objects have already/],
    [{requestPropertyName: 'constructor'}, /^requestPropertyName/],
    [{requestPropertyName: 'prototype'}, /^requestPropertyName/],
    [{store: {}}, /^store: the Headgate server keeps the limits\. In memory: headgate serve --store memory/],
    [{store: 'redis'}, /^store: .*--store redis:/],
    [{validate: false}, /^validate: /],
    [{logger: console}, /^logger: give it to the client/],
    [{retryAfter: 5}, /^retryAfter: /],
    [{headers: true}, /^headers: write legacyHeaders/],
    [{onLimitReached() {}}, /^onLimitReached: write onLimitExceeded/],
    [{operation: 'x'}, /^operation: needs application/],
    [{plan: 'free'}, /^plan: needs application/],
    [{attributes: () => ({})}, /^attributes: needs application/],
    [{maxWait: 5}, /^maxWait: needs application/],
    [{application: 'a', maxWait: 5, client}, /^maxWait: waiting in line holds up all calls/],
    [{skipFailedRequests: true}, /^skipFailedRequests: needs application/],
    [{skipSuccessfulRequests: true}, /^skipSuccessfulRequests: needs application/],
    [{application: 'a', requestsPerMinute: 5}, /^requestsPerMinute: with application the policy says the limits/],
    [{application: 'a', windowMs: 5}, /^windowMs: with application/],
    [{application: ''}, /^application/]
  ]) {
    assert.throws(() => rateLimit(options), {name: 'TypeError', message}, JSON.stringify(options))
  }
})
