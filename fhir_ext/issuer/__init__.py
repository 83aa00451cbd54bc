"""The development issuer: real OAuth 2.0 and SMART flows with invented users, on loopback only.

It is for people who try things, and for tests. There are no passwords: whoever reaches it
may act as any of its users, so it is refused on every address that others could reach.
Production uses the issuer of the site.

    clients, users    who may ask, and who may log in: data (demo.yaml)
    keys              signing keys, kept over a restart
    store             codes, sessions, refresh tokens: in memory, bounded, gone with the process
    scopes            what of a request is granted
    server, grants, tokens, assertion, endpoints
                      the flows, on Authlib
    interaction       from the request of an app over login and consent to its code
    pages, routes     how a browser and a client see all that
    flows             the other side: what an app does, without a browser
"""
