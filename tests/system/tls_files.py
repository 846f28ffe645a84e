# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: an authority with certificates, made by the openssl command."""

import datetime
import pathlib
import subprocess


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, **options).stdout


class Authority:
    """A CA in a folder; everything it makes is there."""

    def __init__(self, folder, name="ca"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        openssl("req", "-x509", *self.key_options("ec"), "-nodes", "-keyout", self.key, "-out", self.cert, "-days", "30",
                "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.key.chmod(0o600)

    @property
    def cert(self):
        return self.folder / f"{self.name}.pem"

    @property
    def key(self):
        return self.folder / f"{self.name}.key"

    @staticmethod
    def key_options(kind):
        return ("-newkey", "rsa:2048") if kind == "rsa" else ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")

    def issue(self, name, *hosts, kind="ec", days=30, more=""):
        """NAME.pem, NAME.key; returns the section of the configuration. Replaces what is there, whole."""
        names = ",".join(("IP:" if host[0].isdigit() or ":" in host else "DNS:") + host for host in hosts)
        request, new = self.folder / f"{name}.csr", self.folder / f"{name}.new"
        openssl("req", *self.key_options(kind), "-nodes", "-keyout", f"{new}.key", "-out", request, "-subj",
                f"/O=tests/CN={name}")
        (self.folder / f"{name}.ext").write_text(
            (f"subjectAltName={names}\n" if names else "") + "keyUsage=critical,digitalSignature\n" + more)
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                "-out", f"{new}.pem", "-extfile", self.folder / f"{name}.ext")
        pathlib.Path(f"{new}.key").chmod(0o600)
        for suffix in (".key", ".pem"):
            pathlib.Path(f"{new}{suffix}").rename(self.folder / f"{name}{suffix}")
        return {"cert": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}

    def revoke_nothing(self, name):
        """NAME.ocsp: a signed answer that the certificate is good."""
        cert, response = self.folder / f"{name}.pem", self.folder / f"{name}.ocsp"
        index = self.folder / "index.txt"
        serial = openssl("x509", "-in", cert, "-noout", "-serial").decode().strip().partition("=")[2]
        index.write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN={name}\n")
        openssl("ocsp", "-index", index, "-CA", self.cert, "-rsigner", self.cert, "-rkey", self.key, "-issuer",
                self.cert, "-cert", cert, "-respout", response, "-ndays", "30", "-noverify")
        return str(response)

    def staple(self, name, ends_s, begins_s=-3600):
        """NAME.ocsp: the same, good from then until then, counted from now; replaces what is there, whole."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.x509 import ocsp
        authority = x509.load_pem_x509_certificate(self.cert.read_bytes())
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        cert = x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())
        now = datetime.datetime.utcnow()
        begins, ends = (now + datetime.timedelta(seconds=seconds) for seconds in (begins_s, ends_s))
        answer = ocsp.OCSPResponseBuilder().add_response(
            cert=cert, issuer=authority, algorithm=hashes.SHA1(), cert_status=ocsp.OCSPCertStatus.GOOD, this_update=begins,
            next_update=ends, revocation_time=None, revocation_reason=None).responder_id(
            ocsp.OCSPResponderEncoding.HASH, authority).sign(key, hashes.SHA256())
        new, response = self.folder / f"{name}.ocsp.new", self.folder / f"{name}.ocsp"
        new.write_bytes(answer.public_bytes(serialization.Encoding.DER))
        new.rename(response)
        return str(response)
