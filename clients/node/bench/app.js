// One contestant: an Express application with a limiter, in a process of its own. It tells
// its parent where it listens and, when asked, what it has used and counted.
import express from 'express'
import {Redis} from 'ioredis'
import {RateLimiterRedis} from 'rate-limiter-flexible'
import {Headgate, rateLimit} from 'headgate'

const [contestant, store] = process.argv.slice(2)
const plenty = 1_000_000_000
const id = (req) => req.headers['x-id']
const app = express()
let allowed = () => requests
let requests = 0

if (contestant === 'headgate') {
  const client = new Headgate({url: store, timeout: 5000})
  app.use(rateLimit({client, requestsPerMinute: plenty, identifier: id}))
  allowed = () => client.stats().allowed
} else if (contestant === 'rate-limiter-flexible') {
  // With the fields that its documentation sets.
  const limiter = new RateLimiterRedis({storeClient: new Redis(store), points: plenty, duration: 60})
  let consumed = 0
  allowed = () => consumed
  app.use((req, res, next) => {
    limiter.consume(id(req)).then(
      (r) => {
        consumed++
        res.set({'Retry-After': r.msBeforeNext / 1000, 'X-RateLimit-Limit': plenty, 'X-RateLimit-Remaining': r.remainingPoints, 'X-RateLimit-Reset': Math.ceil((Date.now() + r.msBeforeNext) / 1000)})
        next()
      },
      (err) => next(err)
    )
  })
}
app.get('/', (req, res) => {
  requests++
  res.send('hello')
})
const server = app.listen(0, '127.0.0.1', () => process.send({port: server.address().port}))
process.on('message', () => process.send({cpu: process.cpuUsage(), allowed: allowed(), requests}))
