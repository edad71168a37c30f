// The bucket: a PM2 application of its own. With pm2-token-bucket it looked the same, but for
// the first line.
const {TokenManager} = require('headgate/pm2')

const manager = new TokenManager({
  capacity: 10, // tokens
  refillRate: 1, // one token comes back
  refillInterval: 3000 // in 3 seconds
})

manager.start((err) => {
  if (!err) return
  console.error(err.message)
  process.exit(1) // PM2 starts it again
})
