package admin

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
)

// Backup is a copy of the state of limits. It is as long as its end says.
type Backup interface {
	io.ReadSeekCloser
}

// BackupType is the media type of a backup.
const BackupType = "application/vnd.sqlite3"

// stalled is how long a client may read nothing of a backup.
const stalled = 30 * time.Second

// backup sends a copy of the state.
func (a *api) backup(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	if p := a.wholly(who); p != nil { // it is the state of all applications
		p.ServeHTTP(w, r)
		return
	}
	if a.Backup == nil {
		p := problem.Problem{Name: "not_embedded", Status: http.StatusConflict, Detail: "the state of limits is not in this server's data directory: back up the store that --store names, with its own tools"}
		p.ServeHTTP(w, r)
		return
	}
	start := time.Now()
	b, err := a.Backup(r.Context())
	if err != nil {
		a.Logger.Error("no backup was made", "error", err)
		p := problem.Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: "no backup was made: " + err.Error()}
		p.ServeHTTP(w, r)
		return
	}
	defer b.Close()
	size, err := b.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = b.Seek(0, io.SeekStart)
	}
	if err != nil {
		a.Logger.Error("a backup cannot be read", "error", err)
		p := problem.Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: "the backup cannot be read"}
		p.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", BackupType)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	// The client sees by the length if it got all.
	if _, err := io.Copy(&patientWriter{w, http.NewResponseController(w)}, b); err != nil {
		a.Logger.Warn("a backup was not fetched to its end", "error", err)
		return
	}
	a.Logger.Info("a backup was made", "by", who.Name, "bytes", size, "took", time.Since(start))
}

// patientWriter gives a client time for every write, however many there are.
type patientWriter struct {
	http.ResponseWriter
	conn *http.ResponseController
}

func (w *patientWriter) Write(p []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}
