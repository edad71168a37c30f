module github.com/headgate/headgate/middleware/echolimit

go 1.26.0

require (
	github.com/headgate/headgate v0.0.0
	github.com/labstack/echo/v5 v5.4.4
)

require golang.org/x/time v0.15.0 // indirect

replace github.com/headgate/headgate => ../../
