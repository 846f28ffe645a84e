# SPDX-License-Identifier: Apache-2.0
"""testssl.sh against a listening address: it objects to nothing."""

import contextlib
import json
import shutil
import subprocess

import pytest

from test_tls import TlsRegistry

# What it says of a certificate and of a name that are made for a test.
OF_THE_TEST = ("cert_trust", "cert_chain_of_trust", "cert_caIssuers", "DNS_CAArecord", "certificate_transparency", "HSTS")


@pytest.mark.skipif(not shutil.which("testssl"), reason="testssl.sh is not installed")
def test_nothing_to_object_to(tmp_path):
    with contextlib.closing(TlsRegistry()) as registry:
        uri = "authorityInfoAccess=OCSP;URI:http://ocsp.test/\n"
        registry.certificates["one"] = registry.ca.issue("one", "one.test", "127.0.0.1", days=90, more=uri)
        registry.start()
        findings = tmp_path / "findings.json"
        done = subprocess.run(
            ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--ip", "one", "--add-ca", registry.ca.cert, "--jsonfile",
             findings, f"127.0.0.1:{registry.ports['open']}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=380, universal_newlines=True,
            cwd=tmp_path, check=False)
        rows = json.loads(findings.read_text())
        assert any(row["id"].startswith("cipher") for row in rows), done.stdout
        bad = [row for row in rows if row["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")
               and not row["id"].startswith(OF_THE_TEST)]
        assert not bad, bad
