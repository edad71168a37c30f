module.exports = {
  apps: [
    {name: 'tokenServer', script: 'server.js', cwd: __dirname},
    {name: 'clientApp', script: 'app.js', cwd: __dirname, instances: 3, exec_mode: 'cluster'}
  ]
}
