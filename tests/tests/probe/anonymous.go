// Package anonymous has the functions of the API server's anonymous authenticator, in both forms that it has had.
package anonymous

import "net/http"

type Requests interface {
	AuthenticateRequest(request *http.Request) (user *string, authenticated bool, err error)
}

// Authenticator is the form of Kubernetes 1.31 and later.
type Authenticator struct{ allowedPaths map[string]bool }

func New(paths []string) Requests {
	authenticator := &Authenticator{}
	for _, path := range paths {
		if authenticator.allowedPaths == nil {
			authenticator.allowedPaths = map[string]bool{}
		}
		authenticator.allowedPaths[path] = true
	}
	return authenticator
}

func (a *Authenticator) AuthenticateRequest(request *http.Request) (*string, bool, error) {
	if len(a.allowedPaths) > 0 && !a.allowedPaths[request.URL.Path] {
		return nil, false, nil
	}
	user := "system:anonymous, " + request.Proto
	return &user, true, nil
}

type function func(request *http.Request) (*string, bool, error)

func (f function) AuthenticateRequest(request *http.Request) (*string, bool, error) { return f(request) }

// NewAuthenticator is the form before.
//
//go:noinline
func NewAuthenticator() Requests {
	return function(func(request *http.Request) (*string, bool, error) {
		user := "system:anonymous, " + request.Proto
		return &user, true, nil
	})
}
