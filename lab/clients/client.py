"""A client in Python's own libraries (OpenSSL, HTTP/1.1): client.py URL [--tls 1.2] [--cert NAME] [--authorization TEXT] [--resume]

Prints the status of each answer. With --resume it connects a second time with the session of the first."""
import argparse
import http.client
import ssl
import urllib.parse

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("--tls", default="1.3")
parser.add_argument("--cert")
parser.add_argument("--authorization")
parser.add_argument("--resume", action="store_true")
arguments = parser.parse_args()

url = urllib.parse.urlsplit(arguments.url)
context = ssl.create_default_context(cafile="ca.crt")
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + arguments.tls.replace(".", "_"))
if arguments.cert:
    context.load_cert_chain(arguments.cert + ".crt", arguments.cert + ".key")
session = None
for _ in range(2 if arguments.resume else 1):
    connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=20)
    if session is not None:
        # http.client has no way to hand a session on.
        plain = __import__("socket").create_connection((url.hostname, url.port), 20)
        connection.sock = context.wrap_socket(plain, server_hostname=url.hostname, session=session)
    headers = {"Authorization": arguments.authorization} if arguments.authorization is not None else {}
    connection.request("GET", url.path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    print(answer.status)
    session = connection.sock.session if connection.sock else session
    connection.close()
