// Runs dynalite, which would end where a client goes away in the middle of a request.
process.on('uncaughtException', (err) => {
  if (err.code === 'ECONNRESET' || err.code === 'EPIPE') return
  console.error(err)
  process.exit(1)
})
require('dynalite/cli.js')
