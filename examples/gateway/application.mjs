// An application with pages, an API, server-sent events and a WebSocket. It knows nothing of
// limits.
import {createServer} from 'node:http'
import {WebSocketServer} from 'ws'

const server = createServer((req, res) => {
  if (req.url === '/streams/events') {
    res.writeHead(200, {'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store'})
    let n = 0
    const send = () => res.write(`data: tick ${++n}\n\n`)
    const timer = setInterval(send, 50)
    send()
    res.once('close', () => clearInterval(timer))
    return
  }
  // What the proxy in front says of the client.
  res.setHeader('Content-Type', 'application/json')
  res.end(JSON.stringify({path: req.url, client: req.headers['x-forwarded-for']}))
})

const sockets = new WebSocketServer({server, path: '/streams/socket'})
sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(`echo ${data}`)))

server.listen(0, '127.0.0.1', () => console.log(server.address().port))
