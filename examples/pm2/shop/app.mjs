// One instance of the shop. It asks the Headgate of its machine about every request; it knows
// neither Redis nor the other instances.
import express from 'express'
import {Headgate} from 'headgate'

const instance = `${process.env.CLUSTER}/${process.env.NODE_APP_INSTANCE}`
const headgate = new Headgate({url: process.env.HEADGATE_URL, application: 'shop', timeout: 500, onError: 'closed'})
const app = express()

app.use(async (req, res, next) => {
  // A key is somebody's only after you have checked it; an address is what nginx says.
  const subject = req.get('x-api-key') ?? req.get('x-real-ip')
  const decision = await headgate.take({subject, method: req.method, path: req.path})
  res.set('X-Instance', instance).set('Headgate-Reason', decision.reason)
  if (decision.allowed) return next()
  if (decision.retryAfterMs !== null) res.set('Retry-After', Math.ceil(decision.retryAfterMs / 1000))
  res.status(decision.degraded ? 503 : 429).send(`${decision.reason}\n`)
})

app.get('/api/orders', (req, res) => res.send(`orders from ${instance}\n`))

const server = app.listen(Number(process.env.PORT), '127.0.0.1')

process.on('SIGINT', () => server.close(() => headgate.close().then(() => setTimeout(process.exit, 300))))
