//! TLS connections, made by hand.

/// Body of a client_hello with these extensions.
pub fn client_hello(session_id: &[u8], extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x11; 32]);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend([0, 4, 0x13, 0x01, 0xc0, 0x2f, 1, 0]);
    body.extend(with_extensions(extensions));
    body
}

/// Body of a server_hello with these extensions.
pub fn server_hello(
    version: u16,
    random: &[u8; 32],
    session_id: &[u8],
    cipher: u16,
    extensions: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend(random);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend(cipher.to_be_bytes());
    body.push(0);
    body.extend(with_extensions(extensions));
    body
}

fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    if extensions.is_empty() {
        return Vec::new();
    }
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(number, data)| [&number.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    [&(list.len() as u16).to_be_bytes()[..], &list].concat()
}
