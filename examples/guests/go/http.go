package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	handler "example.com/fetch-secret/bindings/imports/wasi_http_outgoing_handler"
	http "example.com/fetch-secret/bindings/imports/wasi_http_types"
	streams "example.com/fetch-secret/bindings/imports/wasi_io_streams"
	wit "go.bytecodealliance.org/pkg/wit/types"
)

// maxBody is much more than the largest secret.
const maxBody = 1 << 20

type response struct {
	status    int
	challenge string // all of WWW-Authenticate
	body      []byte // of status 200 only
}

// get sends a GET request by wasi:http. Go's own net/http would want sockets,
// which most components do not have.
//
// Everything is dropped in the order that wasi:http wants: children before what
// they came from.
func get(scheme http.Scheme, authority, path string, headers map[string]string) (*response, error) {
	fields := http.MakeFields()
	for name, value := range headers {
		if fields.Append(name, []byte(value)).IsErr() {
			return nil, fmt.Errorf("the header %s cannot be sent", name)
		}
	}
	request := http.MakeOutgoingRequest(fields)
	defer request.Drop() // if it has not been sent
	if request.SetScheme(wit.Some(scheme)).IsErr() ||
		request.SetAuthority(wit.Some(authority)).IsErr() ||
		request.SetPathWithQuery(wit.Some(path)).IsErr() {
		return nil, errorCode(http.MakeErrorCodeHttpRequestUriInvalid())
	}
	sent := handler.Handle(request, wit.None[*http.RequestOptions]())
	if sent.IsErr() {
		return nil, errorCode(sent.Err())
	}
	pending := sent.Ok()
	defer pending.Drop()
	ready := pending.Subscribe()
	defer ready.Drop()
	ready.Block()
	// It is ready, and nobody else has taken it.
	answer := pending.Get().Some().Ok()
	if answer.IsErr() {
		return nil, errorCode(answer.Err())
	}
	incoming := answer.Ok()
	defer incoming.Drop()
	return receive(incoming)
}

func receive(incoming *http.IncomingResponse) (*response, error) {
	headers := incoming.Headers()
	defer headers.Drop()
	answer := &response{
		status:    int(incoming.Status()),
		challenge: string(bytes.Join(headers.Get("www-authenticate"), []byte(", "))),
	}
	if answer.status != 200 {
		return answer, nil
	}
	// Nobody else has taken these two either.
	body := incoming.Consume().Ok()
	defer body.Drop()
	stream := body.Stream().Ok()
	defer stream.Drop()
	var err error
	answer.body, err = io.ReadAll(io.LimitReader(reader{stream}, maxBody))
	return answer, err
}

// reader makes an io.Reader of a stream.
type reader struct{ stream *streams.InputStream }

func (r reader) Read(p []byte) (int, error) {
	chunk := r.stream.BlockingRead(uint64(len(p)))
	if chunk.IsOk() {
		return copy(p, chunk.Ok()), nil
	}
	end := chunk.Err()
	if end.Tag() == streams.StreamError_Closed {
		return 0, io.EOF
	}
	failure := end.LastOperationFailed()
	defer failure.Drop()
	if code := http.HttpErrorCode(failure); code.IsSome() {
		return 0, errorCode(code.Some())
	}
	return 0, errors.New(failure.ToDebugString())
}

func errorCode(code http.ErrorCode) error {
	return errors.New(errorCodes[code.Tag()])
}

// errorCodes are spelled, and in the order, as in wasi:http.
var errorCodes = [...]string{
	"DNS-timeout", "DNS-error",
	"destination-not-found", "destination-unavailable",
	"destination-IP-prohibited", "destination-IP-unroutable",
	"connection-refused", "connection-terminated", "connection-timeout",
	"connection-read-timeout", "connection-write-timeout",
	"connection-limit-reached",
	"TLS-protocol-error", "TLS-certificate-error", "TLS-alert-received",
	"HTTP-request-denied", "HTTP-request-length-required",
	"HTTP-request-body-size", "HTTP-request-method-invalid",
	"HTTP-request-URI-invalid", "HTTP-request-URI-too-long",
	"HTTP-request-header-section-size", "HTTP-request-header-size",
	"HTTP-request-trailer-section-size", "HTTP-request-trailer-size",
	"HTTP-response-incomplete",
	"HTTP-response-header-section-size", "HTTP-response-header-size",
	"HTTP-response-body-size",
	"HTTP-response-trailer-section-size", "HTTP-response-trailer-size",
	"HTTP-response-transfer-coding", "HTTP-response-content-coding",
	"HTTP-response-timeout", "HTTP-upgrade-failed", "HTTP-protocol-error",
	"loop-detected", "configuration-error", "internal-error",
}
