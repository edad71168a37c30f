package redistest

var AwaitForTest = await
