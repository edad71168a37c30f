// An Express application behind Headgate. Any number of processes of it share the limits of
// policy.yaml.
import express from 'express'
import {Headgate, ipKeyGenerator, rateLimit} from 'headgate'

// A busy machine is not to change what the demonstration counts: the usual 100 ms are
// right where answers must not wait.
const client = new Headgate({url: process.env.HEADGATE_URL, onError: 'open', timeout: 10_000})
const app = express()

app.use(
  rateLimit({
    client,
    application: 'shop',
    // Look a key up before you believe it, or every request brings its own budget.
    identifier: (req) => req.get('X-Api-Key') ?? ipKeyGenerator(req.ip)
  })
)
app.get('/', (req, res) => res.json({server: process.pid, left: req.rateLimit.remaining}))
app.get('/strict', (req, res) => res.json({server: process.pid, left: req.rateLimit.remaining}))

const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.on('SIGTERM', () => server.close(() => client.close()))
