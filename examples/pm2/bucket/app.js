// One instance of a cluster: every request takes a token of the bucket that all share.
const express = require('express')
const {TokenClient} = require('headgate/pm2')

const instance = Number(process.env.NODE_APP_INSTANCE)
const tokens = new TokenClient()
const app = express()

// For the example only: how many requests this instance has let pass, and why.
app.get('/stats', (req, res) => res.json({instance, pid: process.pid, ...tokens.stats()}))

app.use(async (req, res, next) => {
  res.set('X-Instance', instance)
  if (await tokens.consume(1)) next()
  else res.status(429).send('Too many requests\n')
})

app.get('/', (req, res) => res.send(`hello from instance ${instance}\n`))

const server = app.listen(Number(process.env.PORT), '127.0.0.1')

// So that a reload drops nobody: what is being answered is answered first. PM2 may just have
// handed over one more connection, and gives it to another instance if this one still lives.
process.on('SIGINT', () => server.close(() => tokens.close().then(() => setTimeout(process.exit, 300))))
