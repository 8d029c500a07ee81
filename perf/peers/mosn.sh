#!/usr/bin/env bash
# Builds MOSN, a peer of the load tests, from its Go module: perf/peers/mosn.sh [FILE].
# FILE is target/tools/bin/mosn when not given; modules come through the Go proxy and are verified
# by Go's checksum database.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=v1.6.1
file=$(realpath -m "${1:-target/tools/bin/mosn}")

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

# A module's replacements count only where it is the main one, so that `go install` refuses it. Its
# own are repeated here. The one added stands in for a module that a Go proxy may refuse: two of its
# types are used by the Seata filter, which nothing here runs.
cat >go.mod <<END
module peer

go 1.24

require mosn.io/mosn $version

replace github.com/envoyproxy/go-control-plane => github.com/envoyproxy/go-control-plane v0.10.0

replace istio.io/api => istio.io/api v0.0.0-20211103171850-665ed2b92d52

replace vimagination.zapto.org/byteio => ./byteio
END
mkdir byteio
cat >byteio/go.mod <<END
module vimagination.zapto.org/byteio

go 1.18
END
cat >byteio/byteio.go <<END
package byteio

import (
	"encoding/binary"
	"io"
)

type BigEndianWriter struct{ io.Writer }

func (w BigEndianWriter) WriteUint32(n uint32) (int, error) {
	return w.Write(binary.BigEndian.AppendUint32(nil, n))
}

type BigEndianReader struct{ io.Reader }

func (r BigEndianReader) ReadUint32() (uint32, int, error) {
	var b [4]byte
	n, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint32(b[:]), n, err
}
END

mkdir -p "$(dirname "$file")"
go build -mod=mod -ldflags "-s -w -X main.Version=$version" -o "$file" \
  mosn.io/mosn/cmd/mosn/main
