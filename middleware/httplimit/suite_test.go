package httplimit_test

import (
	"net/http"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/limittest"
	"github.com/headgate/headgate/middleware/httplimit"
)

func TestSuite(t *testing.T) {
	limittest.Run(t, func(lim *headgate.Limiter, c httplimit.Config, next http.Handler) http.Handler {
		return httplimit.New(lim, c)(next)
	})
}
