// What programs in TypeScript write. The compiler is the test; nothing of this runs.
import {createServer} from 'node:http'
import express, {type Request, type Response} from 'express'
import {Redis} from 'ioredis'
import limit, {Headgate, HeadgateError, ipKeyGenerator, rateLimit, type Decision, type Stats} from 'headgate'
import {TokenClient, TokenManager, type BucketStatus} from 'headgate/pm2'

const client = new Headgate({
  url: 'rediss://127.0.0.1:6380',
  token: 't',
  tls: {ca: 'pem'},
  timeout: 100,
  onError: 'open',
  breaker: {failures: 3},
  application: 'api',
  maxPending: 5,
  logger: console
})
new Headgate({logger: {warn: (line: string) => line}})
new Headgate()
new Headgate({redis: new Redis()})
new Headgate({redis: {host: 'x', port: 1}})
// @ts-expect-error: a number
new Headgate({timeout: '100'})
// @ts-expect-error: unknown
new Headgate({ulr: 'x'})
// @ts-expect-error: one of three
new Headgate({onError: 'ignore'})

const d: Decision = await client.take({operation: 'send', subject: 'alice', cost: 2, units: {tokens: 5}, attributes: {org: 'x'}, headers: {a: ['b', 'c']}, signal: new AbortController().signal})
const remaining: number | null = d.remaining
const code: string | undefined = d.error?.code
const bound: string | null | undefined = d.details?.boundBy
const field: string | null | undefined = (await client.take({operation: 'send', fields: true})).details?.rateLimit
d.limits.map((l) => l.used + (l.retryAfterMs ?? 0))
const held = await client.reserve({operation: 'send', ttl: 5, onError: 'throw'})
if (held.ticket) await client.settle(held.ticket, {cost: 1})
await client.throttle('key', {burst: 5, count: 5, period: 60})
await client.consumeTokens('alice', 3, 'send')
const stats: Stats = client.stats()
await client.close()
// @ts-expect-error: what is taken of whom
await client.take({subjet: 'x'})
// @ts-expect-error: a period
await client.throttle('key', {count: 1})

const app = express()
app.use(rateLimit())
app.use(rateLimit({requestsPerMinute: 100, capacity: 200, client}))
app.use(
  rateLimit({
    windowMs: 60_000,
    limit: async (req: Request) => (req.get('x-tier') === 'pro' ? 100 : 10),
    keyGenerator: (req: Request) => req.get('x-api-key') ?? ipKeyGenerator(req.ip ?? '') ?? 'unknown',
    handler: (req: Request, res: Response, next, options) => {
      if (req.rateLimit?.remaining === 0) res.status(429).json(options)
      else next(new HeadgateError('x', 'y'))
    }
  })
)
app.post('/send', rateLimit({application: 'api', operation: 'send', plan: (req) => String(req.headers['x-plan']), onStoreError: async (err) => (err.code === 'timeout' ? 'open' : 'closed')}), (req, res) => {
  res.json({left: req.rateLimit?.remaining, why: req.rateLimitInfo?.reason, until: req.rateLimit?.resetTime?.toISOString()})
})
// @ts-expect-error: a number or a function
rateLimit({requestsPerMinute: '60'})
// @ts-expect-error: unknown
rateLimit({requestPerMinute: 60})

const limiter = rateLimit({identifier: (req) => req.ip ?? 'none', message: {error: 'slow down'}})
createServer((req, res) => limiter(req, res, (err) => (err ? res.writeHead(500).end() : res.end('hello'))))
rateLimit({message: (req, res) => `slow ${req.url} ${res.statusCode}`})
rateLimit({message: async (req: Request) => ({error: req.path})})
rateLimit({message: 'slow'})
// @ts-expect-error: a string, an object or a function
rateLimit({message: 5})
await limiter.client.close()
const same: typeof rateLimit = limit

const manager = new TokenManager({capacity: 10, refillRate: 1, refillInterval: 3000, name: 'api', binary: '/usr/bin/headgate'})
manager.start((err) => console.log(err?.message))
const status: BucketStatus = manager.getStatus()
const taken: boolean = await new TokenClient({timeout: 500, failOpen: false}).consume(2)
// @ts-expect-error: a number
new TokenManager({capacity: '10'})
export {same, status, taken, bound, code, field, remaining, stats}
